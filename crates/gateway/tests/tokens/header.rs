//! What a header says, signed by the right key.

use gateway::identify::TokenError as E;

use super::issuer::Issuer;
use super::{Corpus, HEADER, claims, strict};

pub fn refuse(corpus: &mut Corpus, ed: &Issuer) {
    let verifier = strict(ed);
    let header = |corpus: &mut Corpus, name: &str, header: &str, error| {
        corpus.refuses(name, &verifier, &ed.token(header, &claims("")), error);
    };
    for (name, alg, error) in [
        ("alg none", r#""none""#, E::Algorithm),
        ("alg None", r#""None""#, E::Algorithm),
        ("alg NONE", r#""NONE""#, E::Algorithm),
        ("alg in another case", r#""eddsa""#, E::Algorithm),
        ("alg of another key", r#""HS256""#, E::Algorithm),
        ("alg by its curve", r#""Ed25519""#, E::Algorithm),
        ("alg with a blank", r#""EdDSA ""#, E::Algorithm),
        ("alg empty", r#""""#, E::Algorithm),
        ("alg null", "null", E::Header),
        ("alg a number", "0", E::Header),
        ("alg a list", r#"["EdDSA"]"#, E::Header),
    ] {
        header(corpus, name, &HEADER.replace(r#""EdDSA""#, alg), error);
    }
    header(
        corpus,
        "no alg",
        r#"{"typ":"JWT","kid":"k1"}"#,
        E::Algorithm,
    );
    for (name, kid, error) in [
        ("kid of another key", r#""k2""#, E::KeyId),
        ("kid in another case", r#""K1""#, E::KeyId),
        ("kid a path", r#""../../../../dev/null""#, E::KeyId),
        ("kid a statement", r#""k1' UNION SELECT 'x""#, E::KeyId),
        ("kid an address", r#""http://169.254.169.254/""#, E::KeyId),
        ("kid with NUL", r#""k1\u0000""#, E::KeyId),
        ("kid a number", "1", E::Header),
        ("kid an object", "{}", E::Header),
    ] {
        header(corpus, name, &HEADER.replace(r#""k1""#, kid), error);
    }
    header(corpus, "no kid", r#"{"alg":"EdDSA","typ":"JWT"}"#, E::KeyId);
    for (name, member) in [
        ("jku", r#""jku":"https://evil.example/keys""#),
        ("jku on the own host", r#""jku":"https://id.example/keys""#),
        ("jwk", r#""jwk":{"kty":"OKP","crv":"Ed25519","x":"AAAA"}"#),
        ("x5u", r#""x5u":"https://evil.example/c""#),
        ("x5c", r#""x5c":["AAAA"]"#),
        ("crit", r#""crit":["exp"],"exp":1"#),
        ("crit empty", r#""crit":[]"#),
        ("b64", r#""b64":false"#),
        ("zip", r#""zip":"DEF""#),
        ("enc", r#""enc":"A128GCM""#),
        ("jku null", r#""jku":null"#),
    ] {
        let longer = HEADER.replace('}', &format!(",{member}}}"));
        header(corpus, name, &longer, E::Header);
    }
    for (name, kind, error) in [
        ("typ of access tokens", r#""at+jwt""#, E::Kind),
        ("typ of logout tokens", r#""logout+jwt""#, E::Kind),
        ("typ of encrypted ones", r#""JWE""#, E::Kind),
        ("typ empty", r#""""#, E::Kind),
        ("typ a number", "1", E::Header),
    ] {
        header(corpus, name, &HEADER.replace(r#""JWT""#, kind), error);
    }
    for (name, text) in [
        ("alg twice", r#"{"alg":"none","alg":"EdDSA","kid":"k1"}"#),
        (
            "alg twice, once escaped",
            r#"{"\u0061lg":"none","alg":"EdDSA","kid":"k1"}"#,
        ),
        (
            "a name twice inside",
            r#"{"alg":"EdDSA","kid":"k1","x":{"a":1,"a":2}}"#,
        ),
        ("a header that is a list", r#"["EdDSA"]"#),
        ("a header with a tail", r#"{"alg":"EdDSA","kid":"k1"}{}"#),
        (
            "a header with a comment",
            r#"{"alg":"EdDSA",/**/"kid":"k1"}"#,
        ),
        (
            "a header behind a byte order mark",
            "\u{feff}{\"alg\":\"EdDSA\",\"kid\":\"k1\"}",
        ),
        ("no header", ""),
    ] {
        header(corpus, name, text, E::Json);
    }
    let deep = format!(
        r#"{{"alg":"EdDSA","kid":"k1","x":{}{}}}"#,
        "[".repeat(1000),
        "]".repeat(1000)
    );
    header(corpus, "a header a thousand deep", &deep, E::Json);
}
