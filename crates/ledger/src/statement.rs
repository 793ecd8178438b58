//! A statement in the one form in which it is signed and read: canonical JSON on a line, as the text of a note.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::head;
use crate::key::SiteKey;
use crate::note::Note;

/// Signs `statement` as `site`.
pub(crate) fn sign(
    statement: &impl Serialize,
    site: &str,
    key: &SiteKey,
) -> Result<String, serde_json::Error> {
    let text = text(statement)?;
    let signature = head::sign(&head::signer(site), key, &text);
    Ok(Note::new(text, vec![signature]).to_string())
}

/// The text that is signed.
pub(crate) fn text(statement: &impl Serialize) -> Result<String, serde_json::Error> {
    let line = serde_json_canonicalizer::to_string(statement)?;
    Ok(format!("{line}\n"))
}

/// Reads one that is written in that form.
pub(crate) fn parse<S: Serialize + DeserializeOwned>(text: &str) -> Option<S> {
    let line = text.strip_suffix('\n')?;
    let statement: S = serde_json::from_str(line).ok()?;
    let same = serde_json_canonicalizer::to_string(&statement).ok()? == line;
    same.then_some(statement)
}
