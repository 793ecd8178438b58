//! Shows a move while it runs: bars on a terminal, plain lines elsewhere, one JSON event a line.
//!
//! The mover's tasks only put events into a channel; a thread of our own writes them, so that a slow
//! terminal or a full pipe never lengthens anybody's pause.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use mover::event::{Event, Observer};

use super::{Form, Tally, json};

/// How often the bars are drawn anew when nothing happens, so that the time left stays true.
const TICK: Duration = Duration::from_millis(500);
/// How often a log gets a line about how far the move is.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Over how long the rate is averaged.
const RATE_OVER: Duration = Duration::from_secs(10);

/// Watches one command's moves and shows them.
pub struct Progress {
    // Unbounded: an event stands for a chunk, a batch or a user set aside, so there are far fewer of them
    // than rows, and dropping one would make the totals untrue.
    events: Sender<Event>,
    thread: JoinHandle<Tally>,
    started: Instant,
}

impl Progress {
    /// Begins to show, on standard output.
    pub fn start(form: Form) -> std::io::Result<Self> {
        Self::start_to(form, Box::new(std::io::stdout()))
    }

    fn start_to(form: Form, out: Box<dyn Write + Send>) -> std::io::Result<Self> {
        let (events, received) = channel();
        let started = Instant::now();
        let thread = std::thread::Builder::new()
            .name("progress".into())
            .spawn(move || {
                let mut screen = Screen::new(form, out, started);
                screen.run(&received);
                screen.tally
            })?;
        Ok(Self {
            events,
            thread,
            started,
        })
    }

    /// Ends: shows what is still to be shown, and returns the sums and the time since the start.
    ///
    /// Give up every clone of an `Arc` around it first; events noted elsewhere later are lost.
    pub fn finish(self) -> (Tally, Duration) {
        drop(self.events);
        let elapsed = self.started.elapsed();
        // The thread only formats and writes: a panic in it is our own mistake.
        (
            self.thread
                .join()
                .expect("the progress thread does not panic"),
            elapsed,
        )
    }
}

impl Observer for Progress {
    fn note(&self, event: &Event) {
        // The thread lives as long as the sender.
        let _ = self.events.send(event.clone());
    }
}

/// The thread's side: what is known and what is drawn.
struct Screen {
    form: Form,
    out: Option<Box<dyn Write + Send>>,
    bars: Option<Bars>,
    tally: Tally,
    rate: Rate,
    started: Instant,
    last_line: Instant,
}

impl Screen {
    fn new(form: Form, out: Box<dyn Write + Send>, started: Instant) -> Self {
        Self {
            form,
            out: Some(out),
            bars: (form == Form::Terminal).then(Bars::new),
            tally: Tally::default(),
            rate: Rate::default(),
            started,
            last_line: started,
        }
    }

    fn run(&mut self, events: &Receiver<Event>) {
        loop {
            match events.recv_timeout(TICK) {
                Ok(event) => self.event(&event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.draw();
        }
        if let Some(bars) = &self.bars {
            bars.clear();
        }
    }

    fn event(&mut self, event: &Event) {
        self.tally.note(event);
        match self.form {
            Form::Json => self.line(&json(event)),
            Form::Terminal | Form::Plain => {
                if let Some(words) = words(event) {
                    self.line(&words);
                }
            }
        }
    }

    fn draw(&mut self) {
        let now = Instant::now();
        self.rate.sample(now, self.tally.bytes_copied);
        let elapsed = now - self.started;
        if let Some(bars) = &self.bars {
            bars.show(&self.tally, self.rate.per_second(), elapsed);
        } else if self.form == Form::Plain && now - self.last_line >= LINE_EVERY {
            self.last_line = now;
            if self.tally.left() > 0 {
                let copied = self.tally.copied_line(self.rate.per_second());
                let moved = self.tally.moved_line(elapsed);
                self.line(&format!("copied {copied}; moved {moved}"));
            }
        }
    }

    fn line(&mut self, line: &str) {
        if let Some(bars) = &self.bars {
            bars.above(line);
        } else if let Some(out) = &mut self.out
            && writeln!(out, "{line}").and_then(|()| out.flush()).is_err()
        {
            // Nobody reads any more. That is no reason to stop a move.
            self.out = None;
        }
    }
}

/// What a person is told at once; what only moves a bar is left to the bars.
fn words(event: &Event) -> Option<String> {
    Some(match event {
        Event::Started {
            r#move,
            service,
            from,
            to,
            users,
            resumed,
            ..
        } => {
            let verb = if *resumed { "goes on" } else { "begins" };
            format!("move {move} of {service} {verb}: {users} users from {from} to {to}", move = r#move)
        }
        Event::Barrier { milliseconds } if *milliseconds >= 1_000 => {
            format!("waited {milliseconds} ms for transactions that began before")
        }
        Event::Retried { batch, reason } => format!("batch {batch} goes again: {reason}"),
        Event::SetAside { user, reason } => format!("user {user} set aside: {reason}"),
        Event::Paused { r#move } => format!(
            "move {move} is paused: nobody changes home, and the slot stays, until `domicile resume`",
            move = r#move
        ),
        Event::Resumed { r#move } => format!("move {move} goes on", move = r#move),
        Event::Aborted { r#move, moved } => {
            format!("move {move} aborted: {moved} moved in this run", move = r#move)
        }
        Event::Finished {
            r#move,
            moved,
            set_aside,
        } => {
            format!("move {move} ended: {moved} moved, {set_aside} set aside", move = r#move)
        }
        Event::Barrier { .. } | Event::Copied { .. } | Event::HandedOff { .. } => return None,
    })
}

struct Bars {
    all: MultiProgress,
    copied: ProgressBar,
    moved: ProgressBar,
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        let style = ProgressStyle::with_template("{prefix:7} [{bar:30}] {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        let bar = |prefix: &'static str| {
            all.add(
                ProgressBar::new(0)
                    .with_style(style.clone())
                    .with_prefix(prefix),
            )
        };
        let (copied, moved) = (bar("copied"), bar("moved"));
        Self { all, copied, moved }
    }

    fn show(&self, tally: &Tally, rate: Option<u64>, elapsed: Duration) {
        // Rows grow while they are copied, and some are copied twice: the bar never runs over its end.
        self.copied
            .set_length(tally.rows_planned.max(tally.rows_copied));
        self.copied.set_position(tally.rows_copied);
        self.copied.set_message(tally.copied_line(rate));
        self.moved.set_length(tally.users_planned);
        self.moved.set_position(tally.moved);
        self.moved.set_message(tally.moved_line(elapsed));
    }

    fn above(&self, line: &str) {
        let _ = self.all.println(line);
    }

    fn clear(&self) {
        self.copied.finish_and_clear();
        self.moved.finish_and_clear();
    }
}

/// Bytes per second over the last seconds.
#[derive(Default)]
struct Rate {
    samples: VecDeque<(Instant, u64)>,
}

impl Rate {
    fn sample(&mut self, now: Instant, bytes: u64) {
        // One sample a tick at most: events may come much faster.
        if self
            .samples
            .back()
            .is_none_or(|(last, _)| now - *last >= TICK)
        {
            self.samples.push_back((now, bytes));
        }
        while self.samples.len() > 2
            && self
                .samples
                .front()
                .is_some_and(|(at, _)| now - *at > RATE_OVER)
        {
            self.samples.pop_front();
        }
    }

    fn per_second(&self) -> Option<u64> {
        let ((first, before), (last, after)) = (self.samples.front()?, self.samples.back()?);
        let seconds = (*last - *first).as_secs_f64();
        (seconds > 0.0).then(|| ((after - before) as f64 / seconds) as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::tally::tests::{copied, handed_off, started};
    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn shown(form: Form) -> (String, Tally) {
        let page = Page::default();
        let progress = Progress::start_to(form, Box::new(page.clone())).unwrap();
        let aside = Event::SetAside {
            user: "7".into(),
            reason: "too big".into(),
        };
        for event in [started(3, 30), copied(3, 30), handed_off(2, 4), aside] {
            progress.note(&event);
        }
        let (tally, _) = progress.finish();
        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        (text, tally)
    }

    #[test]
    fn scripts_get_one_event_a_line() {
        let (text, tally) = shown(Form::Json);
        let events: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let names: Vec<_> = events
            .iter()
            .map(|event| event["event"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["started", "copied", "handed_off", "set_aside"]);
        assert_eq!(events[2]["pause_ms"], 4.0);
        assert_eq!(tally.moved, 2);
    }

    #[test]
    fn a_log_gets_what_happens_once_and_no_line_a_batch() {
        let (text, _) = shown(Form::Plain);
        assert_eq!(
            text,
            "move m1 of shop begins: 3 users from beijing to singapore\nuser 7 set aside: too big\n"
        );
    }

    #[test]
    fn a_reader_who_goes_away_does_not_stop_the_move() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let progress = Progress::start_to(Form::Json, Box::new(Gone)).unwrap();
        progress.note(&started(3, 30));
        progress.note(&handed_off(3, 4));
        assert_eq!(progress.finish().0.moved, 3);
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let start = Instant::now();
        let mut rate = Rate::default();
        assert_eq!(rate.per_second(), None);
        for second in 0..60 {
            rate.sample(start + Duration::from_secs(second), second.min(40) * 1_000);
        }
        assert_eq!(rate.per_second(), Some(0));
        let mut steady = Rate::default();
        steady.sample(start, 0);
        steady.sample(start + Duration::from_secs(4), 8_000);
        assert_eq!(steady.per_second(), Some(2_000));
    }
}
