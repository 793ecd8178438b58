//! How a move ended, for people and as the last line of `apply --json`.

use std::time::Duration;

use super::{Form, Grid, bytes, count, json, milliseconds, seconds};
use crate::exit::Exit;
use crate::summary::Summary;

/// The summary as text.
pub fn render(summary: &Summary, form: Form) -> String {
    if form == Form::Json {
        return json(summary);
    }
    let mut out = String::new();
    if !summary.set_aside.is_empty() {
        let mut grid = Grid::new(&["user", "set aside because"]);
        for aside in &summary.set_aside {
            grid.row([aside.user.clone(), aside.reason.clone()]);
        }
        out.push_str(&grid.show(form));
    }
    out.push_str(&format!(
        "Moved {} users, {} rows ({} copied) in {}; set aside: {}.\n",
        count(summary.moved),
        count(summary.rows),
        bytes(summary.bytes),
        seconds(Duration::from_secs_f64(summary.seconds.max(0.0))),
        count(summary.set_aside.len() as u64)
    ));
    let pause = &summary.pause_ms;
    out.push_str(&format!(
        "Pause per user: p50 {}, p95 {}, p99 {}, longest {}.\n",
        milliseconds(pause.p50),
        milliseconds(pause.p95),
        milliseconds(pause.p99),
        milliseconds(pause.max)
    ));
    out.push_str(&match (summary.verified, summary.mismatches) {
        (true, 0) => "Every user moved was compared before the switch.\n".to_owned(),
        (_, 0) => "Not every user moved was compared.\n".to_owned(),
        (_, n) => format!("Mismatches: {}.\n", count(n)),
    });
    if !summary.r#move.is_empty() {
        out.push_str(&format!("Move: {}\n", summary.r#move));
    }
    out
}

/// 1 where users were set aside or differ.
pub fn exit(summary: &Summary) -> Exit {
    match summary.set_aside.is_empty() && summary.mismatches == 0 && summary.verified {
        true => Exit::Done,
        false => Exit::Unfinished,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::{PauseMs, SetAside};

    fn summary() -> Summary {
        Summary {
            r#move: "m1".into(),
            moved: 1_200,
            set_aside: vec![],
            rows: 52_000,
            bytes: 5 << 20,
            seconds: 12.3,
            pause_ms: PauseMs {
                p50: 4.0,
                p95: 6.0,
                p99: 9.5,
                max: 20.0,
            },
            verified: true,
            mismatches: 0,
        }
    }

    #[test]
    fn people_see_pauses_and_the_move() {
        assert_eq!(
            render(&summary(), Form::Plain),
            "Moved 1,200 users, 52,000 rows (5.0 MiB copied) in 12 s; set aside: 0.\n\
             Pause per user: p50 4.0 ms, p95 6.0 ms, p99 9.5 ms, longest 20.0 ms.\n\
             Every user moved was compared before the switch.\nMove: m1\n"
        );
        assert_eq!(exit(&summary()), Exit::Done);
    }

    #[test]
    fn users_set_aside_are_listed_and_show_in_the_exit_code() {
        let aside = SetAside {
            user: "7".into(),
            reason: "unique value taken".into(),
        };
        let summary = Summary {
            set_aside: vec![aside],
            ..summary()
        };
        assert!(
            render(&summary, Form::Plain)
                .starts_with("user  set aside because\n7     unique value taken\n")
        );
        assert_eq!(exit(&summary), Exit::Unfinished);
        assert_eq!(
            exit(&Summary {
                mismatches: 1,
                ..self::summary()
            }),
            Exit::Unfinished
        );
    }
}
