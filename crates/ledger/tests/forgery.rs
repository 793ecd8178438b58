//! Whatever is changed in a bundle or a proof is found: every field, and the attacks of somebody who has the site's own key.

use std::collections::BTreeMap;

use ledger::Kind;
use ledger::bundle::{self, Bundle, Leaf, Log, Refused, Witnessed};
use ledger::entry::{Entry, commitment};
use ledger::head::{Head, origin};
use ledger::key::{Pins, SiteKey};
use ledger::note::Note;
use ledger::proof::{self, Evidence, Looked, Opening, Proof, Statement};
use ledger::tree::{Frontier, Hash, Node, Nodes, inclusion, leaf_hash, path};
use ledger::witness::Refusal;
use serde_json::{Value, json};

const SITES: [&str; 2] = ["beijing", "singapore"];
const USER: &str = "user-17@example.org";

fn key(site: &str) -> SiteKey {
    let n = SITES.iter().position(|s| *s == site).unwrap_or(9) as u8;
    SiteKey::from_seed(&[n + 1; 32])
}

fn pins() -> Pins {
    let pin = |site: &&str| ((*site).to_owned(), vec![key(site).public().pin()]);
    SITES.iter().map(pin).collect()
}

fn keys() -> BTreeMap<String, Vec<ledger::key::PublicKey>> {
    let one = |site: &&str| ((*site).to_owned(), vec![key(site).public()]);
    SITES.iter().map(one).collect()
}

/// What a site's tables hold, as far as somebody may change it.
#[derive(Clone)]
struct Site {
    texts: Vec<String>,
    nodes: Nodes,
    frontier: Frontier,
}

fn opening(n: usize) -> Hash {
    leaf_hash(format!("opening {n}").as_bytes())
}

fn text(n: usize, kind: &str) -> String {
    let other = commitment(&opening(n), "somebody else");
    let body = json!({
        "from": "beijing", "to": "singapore", "service": "shop", "rows": n,
        "users": [commitment(&opening(n), USER), other],
    });
    let at = format!("2026-11-23T06:00:00.{n:06}Z");
    Entry::new(n as i64 + 1, at, kind.to_owned(), body)
        .text()
        .unwrap()
}

impl Site {
    fn of(texts: Vec<String>) -> Self {
        let (mut nodes, mut frontier) = (Nodes::new(), Frontier::default());
        for (n, text) in texts.iter().enumerate() {
            let hash = leaf_hash(text.as_bytes());
            nodes.insert(
                Node {
                    level: 0,
                    number: n as u64,
                },
                hash,
            );
            nodes.extend(frontier.push(hash));
        }
        Self {
            texts,
            nodes,
            frontier,
        }
    }

    fn head(&self, site: &str) -> Head {
        Head {
            origin: origin("shop", site),
            size: self.frontier.size(),
            root: self.frontier.root(),
        }
    }

    fn note(&self, site: &str, peer: Option<&str>) -> String {
        let head = self.head(site);
        let mut note = Note::new(head.to_string(), vec![head.sign(&key(site))]);
        if let Some(peer) = peer {
            note.add(head.countersign(peer, &key(peer), 1_790_000_000));
        }
        note.to_string()
    }

    fn log(&self, site: &str, heads: Vec<String>) -> Log {
        let leaf = |text: &String| Leaf {
            hash: leaf_hash(text.as_bytes()),
            entry: Some(text.clone()),
        };
        Log {
            service: "shop".into(),
            site: site.into(),
            leaves: self.texts.iter().map(leaf).collect(),
            heads,
        }
    }
}

fn history(n: usize) -> Vec<String> {
    (0..n).map(|n| text(n, "arrived")).collect()
}

/// Both sites; singapore's log has two heads of 5 and 8 entries, countersigned by beijing.
fn good() -> Bundle {
    let (five, eight) = (Site::of(history(5)), Site::of(history(8)));
    let source = Site::of(vec![text(0, "departed")]);
    let notes = [&five, &eight].map(|site| site.note("singapore", Some("beijing")));
    let left = source.note("beijing", Some("singapore"));
    let witnessed = |by: &str, of: &str, note: &String| Witnessed {
        by: by.into(),
        service: "shop".into(),
        of: of.into(),
        note: note.clone(),
    };
    Bundle {
        of: None,
        format: bundle::FORMAT.into(),
        keys: keys(),
        witnessed: vec![
            witnessed("beijing", "singapore", &notes[0]),
            witnessed("beijing", "singapore", &notes[1]),
            witnessed("singapore", "beijing", &left),
        ],
        logs: vec![
            source.log("beijing", vec![left]),
            eight.log("singapore", notes.to_vec()),
        ],
        refused: Vec::new(),
    }
}

fn kinds(bundle: &Bundle) -> Vec<Kind> {
    let report = bundle.verify(&pins());
    report.findings.iter().map(|finding| finding.kind).collect()
}

#[test]
fn a_bundle_that_nobody_touched_is_clean_and_says_how_far_it_is_witnessed() {
    let report = good().verify(&pins());
    assert_eq!(report.findings, []);
    let log = &report.logs[1];
    assert_eq!((log.entries, log.signed, log.witnessed), (8, 8, 8));
    assert_eq!(
        (log.by.len(), &*log.by[0].site, log.by[0].time),
        (1, "beijing", 1_790_000_000)
    );
}

/// What a superuser of singapore does, and with its key where that is said; beijing's records stay.
fn attacked(texts: Vec<String>, heads: impl FnOnce(&Site) -> Vec<String>) -> Bundle {
    let mut bundle = good();
    let site = Site::of(texts);
    bundle.logs[1] = site.log("singapore", heads(&site));
    bundle
}

#[test]
fn the_eight_attacks_are_found_once_a_peer_has_countersigned() {
    let old = good().logs[1].heads.clone();
    let edited = |n: usize| {
        let mut texts = history(8);
        texts[n] = texts[n].replace("\"to\":\"singapore\"", "\"to\":\"nowhere\"");
        texts
    };
    // Edit: the entry alone, its hash as it was.
    let mut edit = good();
    edit.logs[1].leaves[2].entry = Some(edited(2)[2].clone());
    assert_eq!(kinds(&edit), [Kind::Entry]);
    // Delete: one from the middle.
    let mut gone = good();
    gone.logs[1].leaves[2].entry = None;
    assert_eq!(kinds(&gone), [Kind::Entry]);
    let mut texts = history(8);
    texts.remove(2);
    assert!(kinds(&attacked(texts, |_| old.clone())).contains(&Kind::Truncated));
    // Swap, insert.
    let mut texts = history(8);
    texts.swap(1, 2);
    assert!(kinds(&attacked(texts, |_| old.clone())).contains(&Kind::Root));
    let mut texts = history(8);
    texts.insert(3, text(40, "erased"));
    assert!(kinds(&attacked(texts, |_| old.clone())).contains(&Kind::Root));
    // Re-chain: everything computed anew, the signatures as they were.
    assert!(kinds(&attacked(edited(2), |_| old.clone())).contains(&Kind::Root));
    // Truncate, with the heads that say more.
    let short = attacked(history(5), |_| vec![old[0].clone()]);
    assert!(kinds(&short).contains(&Kind::Truncated));
    // Re-sign with the site's own key: only the peer's records are against it.
    let signed = attacked(edited(2), |site| vec![site.note("singapore", None)]);
    assert!(kinds(&signed).contains(&Kind::Root) && kinds(&signed).contains(&Kind::Equivocation));
    let mut unwitnessed = signed;
    unwitnessed.witnessed.retain(|one| one.of != "singapore");
    assert_eq!(
        kinds(&unwitnessed),
        [],
        "nobody can tell what nobody has seen"
    );
    // Fork: it goes on from another past.
    let mut texts = edited(6);
    texts.extend(history(11).split_off(8));
    let forked = attacked(texts, |site| {
        vec![old[0].clone(), site.note("singapore", None)]
    });
    assert!(kinds(&forked).contains(&Kind::Root));
}

#[test]
fn two_heads_of_one_size_are_evidence_by_themselves() {
    let mut texts = history(8);
    texts.swap(1, 2);
    let other = Site::of(texts).note("singapore", None);
    let mut bundle = good();
    bundle.logs[1].heads.push(other.clone());
    assert_eq!(kinds(&bundle), [Kind::Root, Kind::Equivocation]);
    // As a witness keeps them.
    let mut bundle = good();
    let held = bundle.witnessed[1].note.clone();
    bundle.refused.push(Refused {
        by: "beijing".into(),
        service: "shop".into(),
        of: "singapore".into(),
        held,
        shown: other,
        reason: Refusal::SplitView,
    });
    let report = bundle.verify(&pins());
    assert_eq!(report.findings.len(), 1);
    assert_eq!(report.findings[0].kind, Kind::Equivocation);
    assert!(
        !report.findings[0].what.contains("not signed"),
        "{report:?}"
    );
}

#[test]
fn a_witness_that_lost_its_memory_and_a_key_that_is_not_pinned_are_found() {
    let mut bundle = good();
    bundle.witnessed.remove(0);
    assert_eq!(kinds(&bundle), [Kind::Witness]);
    let mut others = pins();
    others.insert(
        "singapore".into(),
        vec![SiteKey::from_seed(&[7; 32]).public().pin()],
    );
    let found = good().verify(&others).findings;
    assert!(
        found.iter().any(|finding| finding.kind == Kind::Key),
        "{found:?}"
    );
    assert!(!good().verify(&Pins::new()).findings.is_empty());
}

fn proof() -> Proof {
    let (home, source) = (Site::of(history(8)), Site::of(vec![text(0, "departed")]));
    let evidence = |site: &Site, name: &str, peer: &str, positions: &[u64]| Evidence {
        site: name.into(),
        head: site.note(name, Some(peer)),
        entries: positions
            .iter()
            .map(|position| Opening {
                position: *position,
                entry: site.texts[*position as usize].clone(),
                path: path(&inclusion(*position, site.frontier.size()), &site.nodes).unwrap(),
                opening: opening(*position as usize),
            })
            .collect(),
    };
    let looked = |site: &Site, name: &str, entries| Looked {
        site: name.into(),
        size: site.frontier.size(),
        root: site.frontier.root(),
        entries,
    };
    let statement = Statement {
        format: proof::STATEMENT.into(),
        user: USER.into(),
        service: "shop".into(),
        home: "singapore".into(),
        by: None,
        epoch: 2,
        state: "settled".into(),
        rule: "phase out: IN -> singapore".into(),
        since: Some("2026-11-23T06:00:00.000006Z".into()),
        at: 1_790_000_001,
        logs: vec![looked(&home, "singapore", 2), looked(&source, "beijing", 1)],
    };
    Proof {
        format: proof::FORMAT.into(),
        keys: keys(),
        statement: statement.sign(&key("singapore")).unwrap(),
        logs: vec![
            evidence(&home, "singapore", "beijing", &[3, 6]),
            evidence(&source, "beijing", "singapore", &[0]),
        ],
    }
}

#[test]
fn a_proof_shows_since_when_and_who_countersigned() {
    let report = proof().check(&pins());
    assert_eq!(report.findings, []);
    assert_eq!(report.statement.unwrap().user, USER);
    assert_eq!(report.witnessed[0].by[0].site, "beijing");
}

/// What the site that he left states, which has its own log alone.
fn proof_of_leaving() -> Proof {
    let source = Site::of(vec![text(0, "departed"), text(1, "erased")]);
    let about = |position: u64| Opening {
        position,
        entry: source.texts[position as usize].clone(),
        path: path(&inclusion(position, source.frontier.size()), &source.nodes).unwrap(),
        opening: opening(position as usize),
    };
    let statement = Statement {
        format: proof::STATEMENT.into(),
        user: USER.into(),
        service: "shop".into(),
        home: "singapore".into(),
        by: Some("beijing".into()),
        epoch: 2,
        state: "departed".into(),
        rule: "unknown".into(),
        since: Some("2026-11-23T06:00:00.000000Z".into()),
        at: 1_790_000_001,
        logs: vec![Looked {
            site: "beijing".into(),
            size: source.frontier.size(),
            root: source.frontier.root(),
            entries: 2,
        }],
    };
    Proof {
        format: proof::FORMAT.into(),
        keys: keys(),
        statement: statement.sign(&key("beijing")).unwrap(),
        logs: vec![Evidence {
            site: "beijing".into(),
            head: source.note("beijing", Some("singapore")),
            entries: vec![about(0), about(1)],
        }],
    }
}

#[test]
fn the_site_that_somebody_left_states_that_and_nothing_that_its_log_does_not_show() {
    let honest = proof_of_leaving();
    let report = honest.check(&pins());
    assert_eq!(report.findings, []);
    let stated = report.statement.unwrap();
    let again = |change: &dyn Fn(&mut Statement), signer: &str| {
        let mut statement = stated.clone();
        change(&mut statement);
        let mut proof = honest.clone();
        proof.statement = statement.sign(&key(signer)).unwrap();
        !proof.check(&pins()).findings.is_empty()
    };
    assert!(!again(&|_| {}, "beijing"));
    // Signed by another, for elsewhere, at another time, of himself, without his saying that he is not the home.
    assert!(again(&|_| {}, "singapore"));
    assert!(again(&|one| one.home = "auckland".into(), "beijing"));
    assert!(again(&|one| one.since = None, "beijing"));
    assert!(again(&|one| one.since = Some("2026".into()), "beijing"));
    assert!(again(&|one| one.home = "beijing".into(), "beijing"));
    assert!(again(&|one| one.by = None, "singapore"));
    assert!(again(
        &|one| (one.by, one.home) = (None, "beijing".into()),
        "beijing"
    ));
}

#[test]
fn who_came_back_has_not_left() {
    let entry = |kind: &str, at: u32, from: &str, to: &str| {
        let body = json!({"from": from, "to": to});
        Entry::new(
            at.into(),
            format!("2026-11-23T06:00:00.{at:06}Z"),
            kind.to_owned(),
            body,
        )
    };
    let left = |entries: &[Entry]| proof::left("beijing", "singapore", entries);
    let went = entry("departed", 1, "beijing", "singapore");
    let back = entry("arrived", 2, "singapore", "beijing");
    let away = entry("departed", 3, "beijing", "auckland");
    let at = Some("2026-11-23T06:00:00.000001Z".to_owned());
    assert_eq!(left(std::slice::from_ref(&went)), at);
    assert_eq!(left(&[back.clone(), went.clone()]), None);
    assert_eq!(left(&[went.clone(), back, away]), None);
    // What others' entries say is nothing.
    assert_eq!(
        left(&[went, entry("departed", 9, "auckland", "beijing")]),
        at
    );
    assert_eq!(left(&[]), None);
}

/// Every way to change one place of a document a little: another number, another letter, one more, one less.
fn changes(value: &Value) -> Vec<Value> {
    match value {
        Value::Null => vec![json!("x")],
        Value::Bool(is) => vec![json!(!is)],
        Value::Number(number) => vec![json!(number.as_u64().unwrap_or_default() + 1), json!("1")],
        Value::String(text) => {
            let mut all = vec![Value::Null, json!(format!("{text}x"))];
            // Each eleventh letter: the whole would take long, and where it stands does not matter.
            let letters = text.char_indices().step_by(11);
            all.extend(letters.map(|(at, letter)| {
                let other = if letter == 'A' { 'B' } else { 'A' };
                json!(format!(
                    "{}{other}{}",
                    &text[..at],
                    &text[at + letter.len_utf8()..]
                ))
            }));
            all
        }
        Value::Array(items) => {
            let mut all = Vec::new();
            for (n, item) in items.iter().enumerate() {
                let with = |new: Option<Value>| {
                    let mut items = items.clone();
                    match new {
                        Some(new) => items[n] = new,
                        None => drop(items.remove(n)),
                    }
                    Value::Array(items)
                };
                all.push(with(None));
                all.extend(changes(item).into_iter().map(|new| with(Some(new))));
            }
            all
        }
        Value::Object(fields) => {
            let mut all = Vec::new();
            for (name, item) in fields {
                let with = |new: Option<Value>| {
                    let mut fields = fields.clone();
                    fields.remove(name);
                    if let Some(new) = new {
                        fields.insert(name.clone(), new);
                    }
                    Value::Object(fields)
                };
                all.push(with(None));
                all.extend(changes(item).into_iter().map(|new| with(Some(new))));
            }
            let mut more = fields.clone();
            more.insert("more".into(), json!(1));
            all.push(Value::Object(more));
            all
        }
    }
}

#[test]
fn whatever_is_forged_in_a_proof_it_is_refused() {
    let mut all = changes(&serde_json::to_value(proof()).unwrap());
    assert!(all.len() > 300, "{}", all.len());
    all.extend(changes(&serde_json::to_value(proof_of_leaving()).unwrap()));
    for forged in all {
        if let Ok(read) = serde_json::from_value::<Proof>(forged.clone()) {
            let findings = read.check(&pins()).findings;
            assert!(!findings.is_empty(), "{forged:#}");
        }
    }
}

#[test]
fn whatever_is_forged_in_the_statement_or_an_entry_it_is_refused() {
    let honest = proof();
    let note = Note::parse(&honest.statement).unwrap();
    let signature = note.signatures()[0].clone();
    let statement: Value = serde_json::from_str(note.text()).unwrap();
    for forged in changes(&statement) {
        let text = format!("{}\n", serde_json::to_string(&forged).unwrap());
        let mut proof = honest.clone();
        proof.statement = Note::new(text, vec![signature.clone()]).to_string();
        assert!(!proof.check(&pins()).findings.is_empty(), "{forged:#}");
    }
    let entry: Value = serde_json::from_str(&honest.logs[0].entries[0].entry).unwrap();
    for forged in changes(&entry) {
        let mut proof = honest.clone();
        proof.logs[0].entries[0].entry = serde_json::to_string(&forged).unwrap();
        assert!(!proof.check(&pins()).findings.is_empty(), "{forged:#}");
    }
}

/// What may be left out unseen: an older head of a log as long as nobody countersigned it.
#[test]
fn whatever_is_forged_in_a_bundle_it_is_refused() {
    let all = changes(&serde_json::to_value(good()).unwrap());
    assert!(all.len() > 300, "{}", all.len());
    let mut unseen = 0;
    for forged in all {
        if let Ok(read) = serde_json::from_value::<Bundle>(forged.clone())
            && read.verify(&pins()).findings.is_empty()
        {
            unseen += 1;
            // Evidence may be kept back, none can be made: what is left is a part of the honest bundle.
            assert!(is_part(&read, &good()), "{forged:#}");
        }
    }
    assert!(unseen <= 4, "{unseen}");
}

fn is_part(read: &Bundle, whole: &Bundle) -> bool {
    let logs = read.logs.iter().all(|log| {
        whole.logs.iter().any(|other| {
            (&log.site, &log.leaves) == (&other.site, &other.leaves)
                && log.heads.iter().all(|head| other.heads.contains(head))
        })
    });
    logs && read
        .witnessed
        .iter()
        .all(|one| whole.witnessed.contains(one))
}

/// As one site's daemon has it: its own log, and what it countersigned of others'.
#[test]
fn a_bundle_of_one_site_is_whole_where_it_says_so_and_others_heads_still_speak_for_themselves() {
    let mut partial = good();
    partial.logs.retain(|log| log.site == "singapore");
    partial.witnessed.retain(|one| one.by == "singapore");
    assert!(!partial.witnessed.is_empty());
    assert!(kinds(&partial).contains(&Kind::Truncated));
    partial.of = Some(vec!["singapore".into()]);
    assert_eq!(kinds(&partial), []);
    let report = partial.verify(&pins());
    assert_eq!(report.of, partial.of);
    assert!(report.logs.iter().all(|log| log.witnessed > 0));
    // Of its own log nothing may be missing.
    let mut gone = partial.clone();
    gone.of = Some(vec!["beijing".into(), "singapore".into()]);
    assert!(kinds(&gone).contains(&Kind::Truncated));
    // Two heads of one size, of a log that is elsewhere.
    let held = &partial.witnessed[0];
    let mut other = Head::parse(Note::parse(&held.note).unwrap().text()).unwrap();
    other.root = Hash([9; 32]);
    let signatures = vec![
        other.sign(&key("beijing")),
        other.countersign("singapore", &key("singapore"), 9),
    ];
    let note = Note::new(other.to_string(), signatures).to_string();
    let twice = Witnessed {
        note,
        ..held.clone()
    };
    partial.witnessed.push(twice);
    assert!(kinds(&partial).contains(&Kind::Equivocation));
}

/// The site's own word that a log has nothing more of somebody cannot be checked, but it is signed.
#[test]
fn an_entry_cannot_be_left_out_of_a_proof() {
    let mut proof = proof();
    proof.logs[0].entries.pop();
    let found = proof.check(&pins()).findings;
    assert!(
        found.iter().any(|finding| finding.kind == Kind::Statement),
        "{found:?}"
    );
}
