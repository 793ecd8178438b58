//! The form of a token, and parts of two.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gateway::identify::{TOKEN_BYTES_MAX, TokenError as E};

use super::issuer::{Issuer, b64};
use super::{Corpus, HEADER, claims, strict, with};

pub fn refuse(corpus: &mut Corpus, ed: &Issuer) {
    let verifier = strict(ed);
    let good = ed.token(HEADER, &claims(""));
    let parts: Vec<_> = good.split('.').collect();
    let (h, c, s) = (parts[0], parts[1], parts[2]);
    let unsigned = b64(r#"{"alg":"none"}"#);
    let mut flipped = URL_SAFE_NO_PAD.decode(s).unwrap();
    flipped[10] ^= 1;
    for (name, token, error) in [
        (
            "alg none, unsigned",
            format!("{unsigned}.{c}."),
            E::Algorithm,
        ),
        ("alg none, two parts", format!("{unsigned}.{c}"), E::Form),
        ("no signature", format!("{h}.{c}."), E::Signature),
        ("two parts", format!("{h}.{c}"), E::Form),
        ("four parts", format!("{h}.{c}.{s}.{s}"), E::Form),
        (
            "five parts, as an encrypted one",
            format!("{h}.{c}.{s}.{s}.{s}"),
            E::Form,
        ),
        ("one part", h.into(), E::Form),
        ("nothing", String::new(), E::Form),
        ("two dots", "..".into(), E::Json),
        ("padding", format!("{h}.{c}.{s}=="), E::Form),
        (
            "the other alphabet",
            format!("{h}.{c}.+/{}", &s[2..]),
            E::Form,
        ),
        ("a blank before it", format!(" {good}"), E::Form),
        ("a line after it", format!("{good}\n"), E::Form),
        ("a NUL inside", format!("{h}.{c}\0.{s}"), E::Form),
        ("two tokens", format!("{good},{good}"), E::Form),
        (
            "a signature cut short",
            format!("{h}.{c}.{}", b64(&flipped[..60])),
            E::Signature,
        ),
        (
            "a signature of one other bit",
            format!("{h}.{c}.{}", b64(&flipped)),
            E::Signature,
        ),
        (
            "a signature of zeros",
            format!("{h}.{c}.{}", b64([0; 64])),
            E::Signature,
        ),
        (
            "other claims under the signature",
            format!("{h}.{}.{s}", b64(with("\"7\"", "\"8\""))),
            E::Signature,
        ),
        (
            "another header over the signature",
            format!("{}.{c}.{s}", b64(HEADER.replace(',', ", "))),
            E::Signature,
        ),
        (
            "too long",
            format!("{h}.{}.{s}", "A".repeat(TOKEN_BYTES_MAX)),
            E::Form,
        ),
    ] {
        corpus.refuses(name, &verifier, &token, error);
    }
    // 86 letters hold 64 bytes and four bits that are nobody's.
    let last = s.chars().last().unwrap();
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let at = alphabet.find(last).unwrap();
    let spare = alphabet.as_bytes()[at ^ 1] as char;
    let respelled = format!("{h}.{c}.{}{spare}", &s[..s.len() - 1]);
    corpus.refuses(
        "a signature in another spelling",
        &verifier,
        &respelled,
        E::Form,
    );
}
