//! X6: forged, stolen, stale and ambiguous tokens. None is accepted; what a good issuer signs is.

mod claimed;
mod form;
mod header;
#[path = "../issuer/mod.rs"]
mod issuer;
mod keys;

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gateway::identify::{Algorithm, BadKey, Key, LEEWAY_MAX, TokenError, Verifier};
use issuer::{CERTIFICATE, Issuer, NOW, RSA, RSA_1024_PUBLIC, RSA_PUBLIC, SECRET, now};

const HEADER: &str = r#"{"alg":"EdDSA","typ":"JWT","kid":"k1"}"#;

/// The claims of a good token, and `more`, which begins with a comma.
fn claims(more: &str) -> String {
    let (exp, iat) = (NOW + 300, NOW - 10);
    format!(
        r#"{{"iss":"https://id.example","aud":"shop","sub":"7","exp":{exp},"iat":{iat}{more}}}"#
    )
}

/// The good claims with `from` replaced.
fn with(from: &str, to: &str) -> String {
    let good = claims("");
    assert!(good.contains(from), "{from}");
    good.replace(from, to)
}

fn strict(issuer: &Issuer) -> Verifier {
    Verifier {
        key_id: Some("k1".into()),
        issuer: Some("https://id.example".into()),
        audience: Some("shop".into()),
        ..Verifier::new(issuer.key())
    }
}

struct Corpus {
    tried: usize,
    accepted: Vec<String>,
}

impl Corpus {
    fn refuses(&mut self, name: &str, verifier: &Verifier, token: &str, error: TokenError) {
        self.tried += 1;
        match verifier.verify(token, now()) {
            Ok(_) => self.accepted.push(name.to_owned()),
            Err(found) => assert_eq!(found, error, "{name}"),
        }
    }
}

#[test]
fn no_token_of_the_corpus_is_accepted() {
    let ed = Issuer::new(Algorithm::EdDsa);
    let good = ed.token(HEADER, &claims(""));
    assert!(strict(&ed).verify(&good, now()).is_ok());
    let mut corpus = Corpus {
        tried: 0,
        accepted: Vec::new(),
    };
    header::refuse(&mut corpus, &ed);
    claimed::refuse(&mut corpus, &ed);
    form::refuse(&mut corpus, &ed);
    keys::refuse(&mut corpus, &ed);
    println!(
        "{} tokens, {} accepted",
        corpus.tried,
        corpus.accepted.len()
    );
    assert!(corpus.tried >= 40);
    assert!(corpus.accepted.is_empty(), "{:?}", corpus.accepted);
}

#[test]
fn what_an_issuer_signs_is_accepted_by_every_algorithm() {
    for algorithm in Algorithm::ALL {
        let issuer = Issuer::new(algorithm);
        let verifier = Verifier::new(issuer.key());
        let verified = verifier.verify(&issuer.good(r#""sub":"ann","n":-7"#), now());
        let verified = verified.unwrap_or_else(|why| panic!("{}: {why}", algorithm.name()));
        assert_eq!(verified.claim("sub").unwrap().as_deref(), Some("ann"));
        assert_eq!(verified.claim("n").unwrap().as_deref(), Some("-7"));
        assert!(verified.claim("nobody").unwrap().is_none());
        assert_eq!(Algorithm::parse(algorithm.name()), Some(algorithm));
        // No key is good for another algorithm.
        for other in Algorithm::ALL
            .into_iter()
            .filter(|other| *other != algorithm)
        {
            let token = Issuer::new(other).good(r#""sub":"ann""#);
            assert_eq!(
                verifier.verify(&token, now()).unwrap_err(),
                TokenError::Algorithm
            );
        }
    }
    assert_eq!(Algorithm::parse("none"), None);
}

/// The examples of RFC 7515, appendices A.1 to A.3: the keys and signatures of others.
#[test]
fn the_examples_of_rfc_7515_verify() {
    let claims = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let secret =
        "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    let secret = URL_SAFE_NO_PAD.decode(secret).unwrap();
    let modulus = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-\
        yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7\
        WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2\
        PAcDTW9gb54h4FRWyuXpoQ";
    let mut rsa = vec![0x30, 0x82, 1, 10, 2, 0x82, 1, 1, 0];
    rsa.extend(URL_SAFE_NO_PAD.decode(modulus).unwrap());
    rsa.extend([2, 3, 1, 0, 1]);
    let rsa = issuer::pem("30820122300d06092a864886f70d01010105000382010f00", &rsa);
    let mut point = vec![4];
    for coordinate in [
        "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    ] {
        point.extend(URL_SAFE_NO_PAD.decode(coordinate).unwrap());
    }
    let ec = issuer::pem(
        "3059301306072a8648ce3d020106082a8648ce3d030107034200",
        &point,
    );
    let cases = [
        (
            Key::from_secret(Algorithm::Hs256, &secret),
            "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9",
            "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        ),
        (
            Key::from_pem(Algorithm::Rs256, &rsa),
            "eyJhbGciOiJSUzI1NiJ9",
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7\
             t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi1\
             2jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGl\
             UPQGe77Rw",
        ),
        (
            Key::from_pem(Algorithm::Es256, &ec),
            "eyJhbGciOiJFUzI1NiJ9",
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ),
    ];
    let then = std::time::UNIX_EPOCH + Duration::from_secs(1_300_819_000);
    for (key, header, signature) in cases {
        let verifier = Verifier::new(key.unwrap());
        let token = format!("{header}.{claims}.{signature}");
        let verified = verifier.verify(&token, then).unwrap();
        assert_eq!(verified.claim("iss").unwrap().as_deref(), Some("joe"));
        assert_eq!(
            verified.claim("http://example.com/is_root"),
            Err(TokenError::Claim)
        );
        // Today it is long over, and a cache would hear so.
        assert_eq!(
            verifier.verify(&token, now()).unwrap_err(),
            TokenError::Expired
        );
        assert_eq!(verified.holds_at(now()), Err(TokenError::Expired));
        assert_eq!(verified.holds_at(then), Ok(()));
    }
}

#[test]
fn clocks_may_be_apart_by_the_leeway_and_no_more() {
    let issuer = Issuer::new(Algorithm::EdDsa);
    let mut verifier = Verifier::new(issuer.key());
    verifier.leeway = Duration::from_secs(86_400);
    let token = |claims: &str| issuer.token(r#"{"alg":"EdDSA"}"#, claims);
    let leeway = i64::try_from(LEEWAY_MAX.as_secs()).unwrap();
    for (claims, good) in [
        (format!(r#"{{"exp":{}}}"#, NOW - leeway + 1), true),
        (format!(r#"{{"exp":{}}}"#, NOW - leeway), false),
        (
            format!(r#"{{"exp":{},"nbf":{}}}"#, NOW + 999, NOW + leeway),
            true,
        ),
        (
            format!(r#"{{"exp":{},"nbf":{}}}"#, NOW + 999, NOW + leeway + 1),
            false,
        ),
        (format!(r#"{{"exp":{}}}"#, i64::MAX), true),
        (
            format!(r#"{{"exp":{},"nbf":{}}}"#, i64::MAX, i64::MIN),
            true,
        ),
    ] {
        assert_eq!(
            verifier.verify(&token(&claims), now()).is_ok(),
            good,
            "{claims}"
        );
    }
    for header in [
        r#"{"alg":"EdDSA","typ":"jwt"}"#,
        r#"{"alg":"EdDSA","typ":"application/JWT"}"#,
        r#"{"alg":"EdDSA","kid":"anything","x5t":"AAAA","cty":"x"}"#,
    ] {
        let token = issuer.token(header, &format!(r#"{{"exp":{}}}"#, NOW + 1));
        assert!(verifier.verify(&token, now()).is_ok(), "{header}");
    }
}

#[test]
fn keys_of_another_kind_are_refused_where_they_are_read() {
    let ed = Issuer::new(Algorithm::EdDsa).pem();
    let p256 = Issuer::new(Algorithm::Es256).pem();
    let p384 = Issuer::new(Algorithm::Es384).pem();
    let twice = format!("{ed}{p256}");
    for (algorithm, pem, why) in [
        (Algorithm::EdDsa, p256.as_str(), BadKey::Kind),
        (Algorithm::Es256, &p384, BadKey::Kind),
        (Algorithm::Es384, &p256, BadKey::Kind),
        (Algorithm::Es256, &ed, BadKey::Kind),
        (Algorithm::Rs256, &ed, BadKey::Kind),
        (Algorithm::EdDsa, RSA_PUBLIC, BadKey::Kind),
        (Algorithm::Rs256, RSA_1024_PUBLIC, BadKey::RsaSize),
        (Algorithm::Rs256, RSA, BadKey::Private),
        (Algorithm::Rs256, CERTIFICATE, BadKey::Certificate),
        (Algorithm::EdDsa, &twice, BadKey::NotPem),
        (Algorithm::EdDsa, "secret", BadKey::NotPem),
        (Algorithm::EdDsa, "", BadKey::NotPem),
        (Algorithm::Hs256, &ed, BadKey::Kind),
    ] {
        let found = Key::from_pem(algorithm, pem).expect_err(algorithm.name());
        assert_eq!(found, why, "{}", algorithm.name());
    }
    for (algorithm, secret, why) in [
        (Algorithm::Hs256, &SECRET[..31], BadKey::Short),
        (Algorithm::Hs384, &SECRET[..47], BadKey::Short),
        (Algorithm::Hs512, &SECRET[..63], BadKey::Short),
        (Algorithm::Hs256, RSA_PUBLIC.as_bytes(), BadKey::PemSecret),
        (Algorithm::EdDsa, SECRET, BadKey::Kind),
    ] {
        assert_eq!(Key::from_secret(algorithm, secret).unwrap_err(), why);
    }
    let key = Issuer::new(Algorithm::Hs256).key();
    assert_eq!(format!("{key:?}"), "Key(HS256)");
}
