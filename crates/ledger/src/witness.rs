//! What a peer signs: only what continues what it signed before.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::head::Head;
use crate::tree::{Hash, verify_consistency};

/// What a witness does with a head that it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It is the first one, or continues the last: it is countersigned, and becomes the last.
    Countersign,
    /// It is the last one again: the countersignature stands.
    Known,
    /// It is older than the last one and a part of its history: it came late.
    Late,
}

/// Why a witness refuses a head. Both heads are kept: where they are signed by the site, they are evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// Two roots for one size: two histories, shown by the two heads alone.
    #[error("two heads of the same size have different roots")]
    SplitView,
    /// The log is shorter than it was and does not show that what is left is the beginning of what there was.
    #[error("the log has become shorter")]
    Shortened,
    /// The log does not show that it begins with what was countersigned.
    #[error("the log does not continue what was countersigned")]
    Rewritten,
}

/// Judges `shown` by the last head `held` of the same log, if there is one. `path` is the consistency proof from the smaller of
/// the two to the larger. Both are taken to be signed by their site.
pub fn judge(held: Option<&Head>, shown: &Head, path: &[Hash]) -> Result<Judgement, Refusal> {
    let Some(held) = held else {
        return Ok(Judgement::Countersign);
    };
    if held.size == shown.size {
        return match held.root == shown.root {
            true => Ok(Judgement::Known),
            false => Err(Refusal::SplitView),
        };
    }
    let (old, new) = ((held.size, &held.root), (shown.size, &shown.root));
    match held.size < shown.size {
        true => verify_consistency(old, new, path)
            .map(|()| Judgement::Countersign)
            .map_err(|_| Refusal::Rewritten),
        false => verify_consistency(new, old, path)
            .map(|()| Judgement::Late)
            .map_err(|_| Refusal::Shortened),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Frontier, Node, Nodes, consistency, leaf_hash, path};

    fn history(texts: &[&str]) -> (Nodes, Vec<Head>) {
        let (mut nodes, mut frontier) = (Nodes::new(), Frontier::default());
        let head = |frontier: &Frontier| Head {
            origin: "o".into(),
            size: frontier.size(),
            root: frontier.root(),
        };
        let mut heads = vec![head(&frontier)];
        for (n, text) in texts.iter().enumerate() {
            let hash = leaf_hash(text.as_bytes());
            let number = n as u64;
            nodes.insert(Node { level: 0, number }, hash);
            nodes.extend(frontier.push(hash));
            heads.push(head(&frontier));
        }
        (nodes, heads)
    }

    #[test]
    fn only_what_continues_is_countersigned() {
        let (nodes, heads) = history(&["a", "b", "c", "d", "e"]);
        let (_, other) = history(&["a", "x", "c", "d", "e", "f"]);
        let proof = |old, new| path(&consistency(old, new), &nodes).unwrap();
        assert_eq!(judge(None, &heads[3], &[]), Ok(Judgement::Countersign));
        assert_eq!(
            judge(Some(&heads[0]), &heads[3], &[]),
            Ok(Judgement::Countersign)
        );
        assert_eq!(
            judge(Some(&heads[3]), &heads[5], &proof(3, 5)),
            Ok(Judgement::Countersign)
        );
        assert_eq!(judge(Some(&heads[3]), &heads[3], &[]), Ok(Judgement::Known));
        assert_eq!(
            judge(Some(&heads[5]), &heads[3], &proof(3, 5)),
            Ok(Judgement::Late)
        );
        assert_eq!(
            judge(Some(&heads[5]), &heads[3], &[]),
            Err(Refusal::Shortened)
        );
        assert_eq!(
            judge(Some(&heads[3]), &other[3], &[]),
            Err(Refusal::SplitView)
        );
        assert_eq!(
            judge(Some(&heads[3]), &other[6], &proof(3, 5)),
            Err(Refusal::Rewritten)
        );
        assert_eq!(
            judge(Some(&heads[3]), &heads[5], &[]),
            Err(Refusal::Rewritten)
        );
    }
}
