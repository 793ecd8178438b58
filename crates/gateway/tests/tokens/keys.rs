//! Keys of others, algorithms that are mixed up, and types and ages that are not the configured ones.

use std::time::Duration;

use gateway::identify::{Algorithm, TokenError as E, Verifier};
use ring::hmac;

use super::issuer::{Issuer, NOW, RSA_PUBLIC, SECRET, b64};
use super::{Corpus, HEADER, claims, strict, with};

pub fn refuse(corpus: &mut Corpus, ed: &Issuer) {
    let verifier = strict(ed);
    let iat = format!(r#""iat":{}"#, NOW - 10);
    let stranger = Issuer::new(Algorithm::EdDsa);
    let theirs = stranger.token(HEADER, &claims(""));
    corpus.refuses("another issuer's key", &verifier, &theirs, E::Signature);
    let rsa = Issuer::new(Algorithm::Rs256);
    let rs256 = Verifier::new(rsa.key());
    let by_secret = |secret: &[u8], alg: &str| {
        let signed = format!(
            "{}.{}",
            b64(format!(r#"{{"alg":"{alg}"}}"#)),
            b64(claims(""))
        );
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        format!("{signed}.{}", b64(hmac::sign(&key, signed.as_bytes())))
    };
    let public = RSA_PUBLIC.as_bytes();
    corpus.refuses(
        "the public key as a secret",
        &rs256,
        &by_secret(public, "HS256"),
        E::Algorithm,
    );
    corpus.refuses(
        "the same, called RS256",
        &rs256,
        &by_secret(public, "RS256"),
        E::Signature,
    );
    let hs256 = Verifier::new(Issuer::new(Algorithm::Hs256).key());
    corpus.refuses(
        "an empty secret",
        &hs256,
        &by_secret(b"", "HS256"),
        E::Signature,
    );
    corpus.refuses(
        "the secret's beginning",
        &hs256,
        &by_secret(&SECRET[..32], "HS256"),
        E::Signature,
    );
    let short = format!("{}.{}", b64(r#"{"alg":"HS256"}"#), b64(claims("")));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), short.as_bytes());
    let short = format!("{short}.{}", b64(&tag.as_ref()[..16]));
    corpus.refuses("half a tag", &hs256, &short, E::Signature);
    let hs384 = Issuer::new(Algorithm::Hs384).token(r#"{"alg":"HS256"}"#, &claims(""));
    corpus.refuses("HS384 called HS256", &hs256, &hs384, E::Signature);
    let pss = Issuer::new(Algorithm::Ps256);
    corpus.refuses(
        "PS256 for RS256",
        &rs256,
        &pss.good(r#""sub":"7""#),
        E::Algorithm,
    );
    let called = pss.token(r#"{"alg":"RS256"}"#, &claims(""));
    corpus.refuses("PS256 called RS256", &rs256, &called, E::Signature);
    let called = rsa.token(r#"{"alg":"PS256"}"#, &claims(""));
    corpus.refuses(
        "RS256 called PS256",
        &Verifier::new(pss.key()),
        &called,
        E::Signature,
    );
    let longer = Issuer::new(Algorithm::Rs512).token(r#"{"alg":"RS256"}"#, &claims(""));
    corpus.refuses("RS512 called RS256", &rs256, &longer, E::Signature);
    let ec = Issuer::new(Algorithm::Es256);
    let es256 = Verifier::new(ec.key());
    let signed = format!("{}.{}", b64(r#"{"alg":"ES256"}"#), b64(claims("")));
    let blank = format!("{signed}.{}", b64([0; 64]));
    corpus.refuses(
        "ES256 of zeros, CVE-2022-21449",
        &es256,
        &blank,
        E::Signature,
    );
    let fixed = ec.sign(signed.as_bytes());
    let mut der = vec![0x30, 70, 2, 33, 0];
    der.extend_from_slice(&fixed[..32]);
    der.extend_from_slice(&[2, 33, 0]);
    der.extend_from_slice(&fixed[32..]);
    corpus.refuses(
        "ES256 in DER",
        &es256,
        &format!("{signed}.{}", b64(der)),
        E::Signature,
    );

    // Types, where one is configured, and ages.
    let typed = Verifier {
        kind: Some("at+jwt".into()),
        ..Verifier::new(ed.key())
    };
    for (name, header) in [
        ("no type where one is wanted", r#"{"alg":"EdDSA"}"#),
        (
            "an ID token for an access token",
            r#"{"alg":"EdDSA","typ":"JWT"}"#,
        ),
        (
            "a type that ends alike",
            r#"{"alg":"EdDSA","typ":"x/at+jwt"}"#,
        ),
    ] {
        corpus.refuses(name, &typed, &ed.token(header, &claims("")), E::Kind);
    }
    let young = Verifier {
        max_age: Some(Duration::from_secs(60)),
        ..Verifier::new(ed.key())
    };
    let header = r#"{"alg":"EdDSA"}"#;
    let old = with(&iat, &format!(r#""iat":{}"#, NOW - 90));
    corpus.refuses(
        "too old, though not expired",
        &young,
        &ed.token(header, &old),
        E::Expired,
    );
    let ageless = with(&format!(",{iat}"), "");
    corpus.refuses(
        "no iat where the age counts",
        &young,
        &ed.token(header, &ageless),
        E::Claim,
    );
}
