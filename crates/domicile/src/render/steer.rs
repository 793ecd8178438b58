//! `pause`, `resume`, `throttle`, `abort`, `slot drop`: what became of the word.

use serde::Serialize;

use super::{Form, bytes, count, json};

/// A move that was told something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Steered {
    /// The move.
    pub r#move: String,
    /// Its service.
    pub service: String,
    /// Where it leaves from.
    pub from: String,
    /// Whether it has not ended meanwhile.
    pub running: bool,
    /// Whether some process carries it now.
    pub carried: bool,
    /// What is wished: `go`, `pause` or `abort`.
    pub wish: &'static str,
    /// Whether the process that carries it has said that it holds still.
    pub paused: bool,
    /// What that process was at last.
    pub doing: Option<&'static str>,
    /// Whether a throttle stands in place of the configuration's limit.
    pub throttled: bool,
    /// The throttle in bytes a second; none where it is unlimited.
    pub rate: Option<u64>,
}

/// A move that was ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Aborted {
    /// The move.
    pub r#move: String,
    /// `aborted`.
    pub state: String,
    /// Users whom it had moved: they stay moved.
    pub moved: u64,
    /// Its service.
    pub service: String,
    /// Where it left from.
    pub from: String,
    /// Where it went.
    pub to: String,
}

/// A slot that was dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// Its name.
    pub slot: String,
    /// The service.
    pub service: String,
    /// Where it stood.
    pub site: String,
    /// The WAL that it kept back.
    pub wal_bytes: u64,
    /// Chunks that start again.
    pub chunks: u64,
    /// Why, as recorded.
    pub reason: String,
}

/// What the moves were told, as text.
pub fn render(told: &[Steered], form: Form) -> String {
    if form == Form::Json {
        return json(&serde_json::json!({ "moves": told }));
    }
    let lines: Vec<String> = told.iter().map(line).collect();
    lines.join("\n")
}

fn line(told: &Steered) -> String {
    let id = &told.r#move;
    if !told.running {
        return format!("Move {id} has ended meanwhile.");
    }
    let throttle = match (told.throttled, told.rate) {
        (false, _) => String::new(),
        (true, None) => "; its copying is not throttled".to_owned(),
        (true, Some(rate)) => format!("; its copying is throttled to {}/s", bytes(rate)),
    };
    let state = match (told.wish, told.carried) {
        ("pause", true) if told.paused => {
            "is paused: nobody changes home until `domicile resume`; apply follows the stream meanwhile".to_owned()
        }
        ("pause", true) => format!(
            "is told to pause, and will at its next safe point; now: {}",
            told.doing.unwrap_or("unknown")
        ),
        ("pause", false) => {
            "is not running now, and stays paused when apply is run again, until `domicile resume`; its slot keeps WAL back".to_owned()
        }
        ("abort", _) => "is being aborted".to_owned(),
        (_, true) => "goes on".to_owned(),
        (_, false) => "is not running now: run apply to go on".to_owned(),
    };
    format!("Move {id} {state}{throttle}.")
}

/// An aborted move, as text.
pub fn render_aborted(aborted: &Aborted, form: Form) -> String {
    if form == Form::Json {
        return json(aborted);
    }
    let stay = match aborted.moved {
        0 => "nobody has moved".to_owned(),
        moved => format!(
            "{} users had moved to {} and stay there (`domicile rollback {}` takes them back)",
            count(moved),
            aborted.to,
            aborted.r#move
        ),
    };
    format!(
        "Move {} is aborted: {stay}; all others live at {} as before.",
        aborted.r#move, aborted.from
    )
}

/// A dropped slot, as text.
pub fn render_dropped(dropped: &Dropped, form: Form) -> String {
    if form == Form::Json {
        return json(dropped);
    }
    let again = match dropped.chunks {
        0 => "No chunk was unfinished.".to_owned(),
        n => format!(
            "{} unfinished chunks start again from enrolment: run `domicile apply` to go on, or `domicile abort MOVE`.",
            count(n)
        ),
    };
    format!(
        "Slot {} of {} at {} is dropped; it kept {} of WAL back. {again} The reason is recorded.",
        dropped.slot,
        dropped.service,
        dropped.site,
        bytes(dropped.wal_bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steered(wish: &'static str, carried: bool, paused: bool) -> Steered {
        Steered {
            r#move: "m1".into(),
            service: "shop".into(),
            from: "beijing".into(),
            running: true,
            carried,
            wish,
            paused,
            doing: carried.then_some("handing off"),
            throttled: false,
            rate: None,
        }
    }

    #[test]
    fn a_pause_says_whether_it_holds_and_what_comes_next() {
        let said = |told: Steered| render(&[told], Form::Plain);
        assert!(said(steered("pause", true, true)).starts_with("Move m1 is paused"));
        assert!(said(steered("pause", true, false)).ends_with("now: handing off."));
        assert!(said(steered("pause", false, false)).contains("until `domicile resume`"));
        assert_eq!(
            said(steered("go", false, false)),
            "Move m1 is not running now: run apply to go on."
        );
        let slow = Steered {
            throttled: true,
            rate: Some(20 << 20),
            ..steered("go", true, false)
        };
        assert_eq!(
            said(slow),
            "Move m1 goes on; its copying is throttled to 20.0 MiB/s."
        );
    }

    #[test]
    fn scripts_get_one_document() {
        let text = render(&[steered("pause", true, true)], Form::Json);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["moves"][0]["paused"], true);
        assert_eq!(value["moves"][0]["wish"], "pause");
    }

    #[test]
    fn an_abort_says_who_stays_moved() {
        let aborted = |moved| Aborted {
            r#move: "m1".into(),
            state: "aborted".into(),
            moved,
            service: "shop".into(),
            from: "beijing".into(),
            to: "singapore".into(),
        };
        assert!(render_aborted(&aborted(0), Form::Plain).contains("nobody has moved"));
        assert!(render_aborted(&aborted(7), Form::Plain).contains("rollback m1"));
    }
}
