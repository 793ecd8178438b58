//! Asks before something is done that changes where people's data stands.

use std::io::{BufRead, IsTerminal, Write};

use crate::exit::{Exit, Failure, OrFail, Outcome};

/// Whether to go on: with `yes`, or when somebody at the terminal says so. Without a terminal `--yes` is
/// needed. The question goes to standard error, so that standard output stays clean for JSON.
pub fn confirmed(yes: bool, question: &str) -> Outcome<bool> {
    if yes {
        return Ok(true);
    }
    let input = std::io::stdin();
    if !input.is_terminal() {
        return Err(Failure::usage("nobody is there to ask").mend("add --yes"));
    }
    ask(&mut input.lock(), &mut std::io::stderr(), question)
        .or_fail(Exit::Usage, || "cannot ask".into())
}

fn ask(input: &mut impl BufRead, out: &mut impl Write, question: &str) -> std::io::Result<bool> {
    write!(out, "{question} [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    input.read_line(&mut answer)?;
    Ok(matches!(
        answer.trim().to_ascii_lowercase().as_str(),
        "y" | "yes"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_yes_is_one() {
        let answer = |text: &str| ask(&mut text.as_bytes(), &mut Vec::new(), "go?").unwrap();
        assert!(answer("y\n") && answer("Yes\n"));
        assert!(!answer("\n") && !answer("") && !answer("yep\n"));
    }
}
