//! What a token claims, signed by the right key.

use gateway::identify::TokenError as E;

use super::issuer::{Issuer, NOW, b64};
use super::{Corpus, HEADER, claims, strict, with};

pub fn refuse(corpus: &mut Corpus, ed: &Issuer) {
    let verifier = strict(ed);
    let claimed = |corpus: &mut Corpus, name: &str, claims: &str, error| {
        corpus.refuses(name, &verifier, &ed.token(HEADER, claims), error);
    };
    let exp = format!(r#""exp":{}"#, NOW + 300);
    for (name, written, error) in [
        (
            "expired long ago",
            format!(r#""exp":{}"#, NOW - 86_400),
            E::Expired,
        ),
        (
            "expired by the leeway, to the second",
            format!(r#""exp":{}"#, NOW - 30),
            E::Expired,
        ),
        ("exp before 1970", r#""exp":-1"#.into(), E::Expired),
        (
            "exp a string",
            format!(r#""exp":"{}""#, NOW + 300),
            E::Claim,
        ),
        (
            "exp a fraction",
            format!(r#""exp":{}.5"#, NOW + 300),
            E::Claim,
        ),
        (
            "exp beyond all numbers",
            r#""exp":99999999999999999999"#.into(),
            E::Claim,
        ),
        ("exp with an exponent", r#""exp":1e18"#.into(), E::Claim),
        ("exp null", r#""exp":null"#.into(), E::Claim),
        ("exp a list", format!(r#""exp":[{}]"#, NOW + 300), E::Claim),
        ("no exp", r#""EXP":1"#.into(), E::Claim),
    ] {
        claimed(corpus, name, &with(&exp, &written), error);
    }
    let nbf = |time: i64| claims(&format!(r#","nbf":{time}"#));
    claimed(corpus, "not before tomorrow", &nbf(NOW + 86_400), E::Early);
    claimed(
        corpus,
        "not before the leeway ends",
        &nbf(NOW + 31),
        E::Early,
    );
    claimed(corpus, "nbf a string", &claims(r#","nbf":"0""#), E::Claim);
    let iat = format!(r#""iat":{}"#, NOW - 10);
    claimed(
        corpus,
        "from tomorrow",
        &with(&iat, &format!(r#""iat":{}"#, NOW + 86_400)),
        E::Early,
    );
    claimed(
        corpus,
        "iat a fraction",
        &with(&iat, r#""iat":0.5"#),
        E::Claim,
    );
    for (name, issuer) in [
        ("another issuer", r#""https://evil.example""#),
        (
            "an issuer that begins alike",
            r#""https://id.example.evil.example""#,
        ),
        ("an issuer with a slash", r#""https://id.example/""#),
        ("issuers in a list", r#"["https://id.example"]"#),
        ("issuer null", "null"),
    ] {
        claimed(
            corpus,
            name,
            &with(r#""https://id.example""#, issuer),
            E::Issuer,
        );
    }
    claimed(
        corpus,
        "no issuer",
        &with(r#""iss":"https://id.example","#, ""),
        E::Issuer,
    );
    for (name, audience) in [
        ("another audience", r#""forum""#),
        ("an audience in another case", r#""Shop""#),
        ("audiences without ours", r#"["forum","shop2"]"#),
        ("audiences with a number", r#"["shop",1]"#),
        ("no audience in the list", "[]"),
        ("an audience as an object", r#"{"shop":1}"#),
        ("audience null", "null"),
    ] {
        claimed(corpus, name, &with(r#""shop""#, audience), E::Audience);
    }
    claimed(
        corpus,
        "no audience",
        &with(r#""aud":"shop","#, ""),
        E::Audience,
    );
    for (name, text) in [
        ("the user twice", claims(r#","sub":"8""#)),
        ("the user twice, once escaped", claims(r#","\u0073ub":"8""#)),
        ("exp twice", claims(r#","exp":9999999999"#)),
        ("a name twice in a list", claims(r#","x":[{"a":1,"a":1}]"#)),
        ("claims that are a list", "[]".into()),
        ("claims that are a text", r#""x""#.into()),
        ("claims with a tail", claims("") + "x"),
        ("no claims", String::new()),
    ] {
        claimed(corpus, name, &text, E::Json);
    }
    let signed = format!("{}.{}", b64(HEADER), b64(b"{\"sub\":\"\xff\"}"));
    let latin = format!("{signed}.{}", b64(ed.sign(signed.as_bytes())));
    corpus.refuses("claims that are no UTF-8", &verifier, &latin, E::Json);
}
