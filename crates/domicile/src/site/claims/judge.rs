//! What follows from what sites say of a claim. Pure.

use std::collections::BTreeMap;

use model::SiteName;
use residency::claims::Finding;

use super::word::Word;

/// What to do next about a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask that site.
    Ask(SiteName),
    /// It is settled, or nobody can settle it now.
    Found(Finding),
}

/// The next step about a claim of a user who was last known at `hint`, among `sites`, where `words` have been said.
///
/// The word of the site at which he lives decides, alone: there is one such site. Whoever left points at where he went. A user of whom a site
/// knows nothing may have been created at any other one; only where every site knows nothing of him there is nobody who holds the name.
pub(super) fn step(hint: &SiteName, sites: &[SiteName], words: &BTreeMap<SiteName, Word>) -> Step {
    let unsure = Step::Found(Finding::Unsure);
    for (site, word) in words {
        match word {
            Word::Holds => return Step::Found(Finding::Held(site.clone())),
            Word::Lacks { since_us: None } => return Step::Found(Finding::Free),
            Word::Lacks { since_us: Some(_) } => return Step::Found(Finding::Waits),
            Word::Elsewhere { .. } | Word::Unknown { .. } | Word::Unsure => {}
        }
    }
    let mut at = hint;
    // No site is passed twice: whoever points in a circle is changing home.
    for _ in sites {
        match words.get(at) {
            None if sites.contains(at) => return Step::Ask(at.clone()),
            Some(Word::Elsewhere { site }) => at = site,
            Some(Word::Unknown { .. }) | None => break,
            Some(Word::Unsure | Word::Holds | Word::Lacks { .. }) => return unsure,
        }
    }
    if let Some(Word::Elsewhere { .. }) = words.get(at) {
        return unsure;
    }
    if let Some(site) = sites.iter().find(|site| !words.contains_key(*site)) {
        return Step::Ask(site.clone());
    }
    let mut finding = Finding::Free;
    for word in sites.iter().filter_map(|site| words.get(site)) {
        match word {
            Word::Unknown { since_us: None } => {}
            Word::Unknown { since_us: Some(_) } => finding = Finding::Waits,
            Word::Holds | Word::Lacks { .. } | Word::Elsewhere { .. } | Word::Unsure => {
                return unsure;
            }
        }
    }
    Step::Found(finding)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITES: [&str; 3] = ["beijing", "singapore", "california"];

    fn site(n: usize) -> SiteName {
        SITES[n].into()
    }

    fn to(n: usize) -> Word {
        Word::Elsewhere { site: site(n) }
    }

    const LACKS: Word = Word::Lacks { since_us: None };
    const STILL: Word = Word::Lacks { since_us: Some(7) };
    const UNKNOWN: Word = Word::Unknown { since_us: None };
    const OPEN: Word = Word::Unknown { since_us: Some(7) };

    /// Asks as `step` says, of sites that say `words`, beginning at the first.
    fn ask(words: [Word; 3]) -> (Finding, usize) {
        let sites = SITES.map(SiteName::from);
        let mut said = BTreeMap::new();
        loop {
            match step(&sites[0], &sites, &said) {
                Step::Found(finding) => return (finding, said.len()),
                Step::Ask(asked) => {
                    let at = sites.iter().position(|site| *site == asked).unwrap();
                    assert!(said.insert(asked, words[at].clone()).is_none());
                }
            }
        }
    }

    #[test]
    fn the_home_decides_alone() {
        let held = |n| Finding::Held(site(n));
        for (words, finding, asked) in [
            ([Word::Holds, Word::Unsure, Word::Unsure], held(0), 1),
            ([LACKS, Word::Unsure, Word::Unsure], Finding::Free, 1),
            ([to(2), Word::Unsure, Word::Holds], held(2), 2),
            ([to(1), to(2), Word::Holds], held(2), 3),
            ([to(1), LACKS, Word::Unsure], Finding::Free, 2),
            ([UNKNOWN, UNKNOWN, Word::Holds], held(2), 3),
            ([UNKNOWN, to(2), LACKS], Finding::Free, 3),
        ] {
            assert_eq!(ask(words.clone()), (finding, asked), "{words:?}");
        }
    }

    #[test]
    fn a_user_of_whom_nobody_knows_holds_nothing() {
        assert_eq!(ask([UNKNOWN, UNKNOWN, UNKNOWN]), (Finding::Free, 3));
    }

    #[test]
    fn what_may_still_be_written_waits() {
        for words in [
            [STILL, UNKNOWN, UNKNOWN],
            [OPEN, UNKNOWN, UNKNOWN],
            [UNKNOWN, OPEN, UNKNOWN],
            [to(2), Word::Holds, STILL],
        ] {
            assert_eq!(ask(words.clone()).0, Finding::Waits, "{words:?}");
        }
    }

    #[test]
    fn nothing_is_settled_on_the_word_of_who_is_not_his_home_or_not_sure() {
        for words in [
            [Word::Unsure, UNKNOWN, UNKNOWN],
            [UNKNOWN, UNKNOWN, Word::Unsure],
            // Points there, and nobody is there.
            [to(1), UNKNOWN, UNKNOWN],
            [UNKNOWN, to(2), UNKNOWN],
            // He is changing home: each names the other.
            [to(1), to(0), UNKNOWN],
            [to(0), UNKNOWN, UNKNOWN],
        ] {
            assert_eq!(ask(words.clone()).0, Finding::Unsure, "{words:?}");
        }
        // A site of which nothing is configured.
        let nowhere = Word::Elsewhere {
            site: "oslo".into(),
        };
        assert_eq!(ask([nowhere, UNKNOWN, UNKNOWN]).0, Finding::Unsure);
    }
}
