//! What checking costs where there is much. Run with `cargo test -p ledger --release --test large -- --ignored --nocapture`; the
//! figures stand in docs/ledger.md.

use std::time::Instant;

use ledger::bundle::{Bundle, FORMAT, Leaf, Log, Witnessed};
use ledger::entry::{Entry, commitment};
use ledger::head::{Head, origin};
use ledger::key::SiteKey;
use ledger::note::Note;
use ledger::tree::{Frontier, Hash, Node, Nodes, inclusion, leaf_hash, path, verify_inclusion};
use serde_json::json;

const ENTRIES: u64 = 100_000;

#[test]
#[ignore = "a measurement"]
fn a_hundred_thousand_entries_are_checked() {
    let (site, peer) = (SiteKey::from_seed(&[1; 32]), SiteKey::from_seed(&[2; 32]));
    let (mut frontier, mut nodes) = (Frontier::default(), Nodes::new());
    let (mut leaves, mut heads, mut witnessed) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..ENTRIES {
        // As many users as a batch has by default.
        let users: Vec<String> = (0..64u8)
            .map(|user| commitment(&Hash([user; 32]), &n.to_string()))
            .collect();
        let body =
            json!({"from": "a", "to": "b", "batch": n.to_string(), "rows": n, "users": users});
        let at = "2026-11-23T06:00:00.000000Z".to_owned();
        let text = Entry::new(n as i64, at, "arrived".into(), body)
            .text()
            .unwrap();
        let hash = leaf_hash(text.as_bytes());
        nodes.insert(
            Node {
                level: 0,
                number: n,
            },
            hash,
        );
        nodes.extend(frontier.push(hash));
        leaves.push(Leaf {
            hash,
            entry: Some(text),
        });
        if (n + 1) % 100 == 0 {
            let (size, root) = (frontier.size(), frontier.root());
            let head = Head {
                origin: origin("shop", "a"),
                size,
                root,
            };
            let mut note = Note::new(head.to_string(), vec![head.sign(&site)]);
            note.add(head.countersign("b", &peer, n));
            heads.push(note.to_string());
            witnessed.push(Witnessed {
                by: "b".into(),
                service: "shop".into(),
                of: "a".into(),
                note: note.to_string(),
            });
        }
    }
    let keys = [
        ("a".to_owned(), vec![site.public()]),
        ("b".to_owned(), vec![peer.public()]),
    ];
    let pins = keys.clone().map(|(site, keys)| (site, vec![keys[0].pin()]));
    let log = |site: &str, leaves, heads| Log {
        service: "shop".into(),
        site: site.into(),
        leaves,
        heads,
    };
    let bundle = Bundle {
        of: None,
        format: FORMAT.into(),
        keys: keys.into(),
        logs: vec![log("a", leaves, heads), log("b", Vec::new(), Vec::new())],
        witnessed,
        refused: Vec::new(),
    };
    let text = serde_json::to_string(&bundle).unwrap();
    let started = Instant::now();
    let read: Bundle = serde_json::from_str(&text).unwrap();
    let parsed = started.elapsed();
    let report = read.verify(&pins.into());
    let elapsed = started.elapsed();
    assert_eq!(report.findings, []);
    println!(
        "{ENTRIES} entries of 64 users, {} heads, {} MiB: read {parsed:?}, read and checked {elapsed:?}",
        read.witnessed.len(),
        text.len() >> 20
    );

    let root = frontier.root();
    let started = Instant::now();
    let proofs = 1000;
    for n in 0..proofs {
        let position = n * 97;
        let proof = path(&inclusion(position, ENTRIES), &nodes).unwrap();
        let text = read.logs[0].leaves[position as usize]
            .entry
            .as_deref()
            .unwrap_or_default();
        verify_inclusion(text.as_bytes(), position, (ENTRIES, &root), &proof).unwrap();
    }
    println!(
        "one inclusion proof made and checked: {:?}",
        started.elapsed() / proofs as u32
    );
}
