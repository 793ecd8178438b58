//! Who leads what, and what becomes of work when a term ends or the daemon does.

mod support;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use daemon::Daemon;
use postgres::connect::connect;
use support::{PATIENCE, Running, Site, Task, When};
use testbed::wait_until;

fn start(site: &Site, socket: &str, work: std::sync::Arc<Task>) -> Running {
    let settings = site.settings(socket);
    let path = settings.admin.socket.clone();
    Running::start(Daemon::new(settings).work(work), path)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_comes_to_a_safe_point_is_waited_for() -> Result<()> {
    let site = Site::new("beijing", &["safe"]).await?;
    let task = Task::new(When::After(Duration::from_millis(300)));
    let running = start(&site, "a.sock", task.clone());
    task.until("it is begun", |seen| seen.running == 1).await?;
    let (socket, began) = (running.socket.clone(), Instant::now());
    ensure!(socket.exists());
    running.end().await??;
    ensure!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
    let seen = task.until("it has ended", |seen| seen.running == 0).await?;
    ensure!(seen.safe == 1 && seen.calls == 1, "{seen:?}");
    ensure!(!socket.exists(), "the socket is left");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_never_ends_is_cut_off_within_ten_seconds() -> Result<()> {
    let site = Site::new("beijing", &["never"]).await?;
    let task = Task::new(When::Never);
    let running = start(&site, "a.sock", task.clone());
    task.until("it is begun", |seen| seen.running == 1).await?;
    let began = Instant::now();
    running.end().await??;
    let took = began.elapsed();
    println!("ended after {} ms", took.as_millis());
    ensure!(
        took >= Duration::from_secs(8),
        "it was given its time: {took:?}"
    );
    ensure!(took < Duration::from_secs(10), "{took:?}");
    let seen = task.until("it is gone", |seen| seen.running == 0).await?;
    ensure!(seen.safe == 0, "{seen:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_twice_it_waits_for_nothing() -> Result<()> {
    let site = Site::new("beijing", &["twice"]).await?;
    let task = Task::new(When::Never);
    let running = start(&site, "a.sock", task.clone());
    task.until("it is begun", |seen| seen.running == 1).await?;
    let began = Instant::now();
    running.ending.gently.cancel();
    running.ending.at_once.cancel();
    running.end().await??;
    ensure!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_fails_or_panics_is_called_again_under_the_same_term() -> Result<()> {
    let site = Site::new("beijing", &["again"]).await?;
    let fails = Task::new(When::Fails(1));
    let panics = Task::new(When::Panics(1));
    let settings = site.settings("a.sock");
    let path = settings.admin.socket.clone();
    let daemon = Daemon::new(settings)
        .work(fails.clone())
        .work(panics.clone());
    let running = Running::start(daemon, path);
    for task in [fails, panics] {
        let seen = task
            .until("it is called again", |seen| {
                seen.calls == 2 && seen.running == 1
            })
            .await?;
        ensure!(seen.terms[0] == seen.terms[1], "{seen:?}");
    }
    running.end().await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_session_ends_the_term_of_its_service_alone_and_the_next_begins_when_the_work_has_ended()
-> Result<()> {
    let site = Site::new("beijing", &["first", "second"]).await?;
    let task = Task::new(When::After(Duration::from_secs(2)));
    let running = start(&site, "a.sock", task.clone());
    running.until_it_leads(&["first", "second"], &[]).await?;
    let seen = task
        .until("both are worked at", |seen| seen.running == 2)
        .await?;
    let (first, second) = ("first".into(), "second".into());
    let lost = running.view.office(&first).expect("led");
    let kept = running.view.office(&second).expect("led").term();

    site.end_session(0).await?;
    running.until_it_leads(&["second"], &["first"]).await?;
    // The work of the lost term still ends; the office is not taken beside it.
    task.until("one has ended", |seen| seen.safe == 1 && seen.running == 1)
        .await?;
    running.until_it_leads(&["first", "second"], &[]).await?;
    let seen_again = task
        .until("it is called again", |seen| {
            seen.calls == seen.terms.len() as u32 && seen.calls == 3
        })
        .await?;
    ensure!(seen_again.running == 2, "{seen:?} {seen_again:?}");
    ensure!(running.view.office(&second).expect("led").term() == kept);

    // What the lost term still had on its way is refused by the database.
    let mut session = connect(&site.cluster.url("postgres", "first_beijing"), "test").await?;
    let tx = session.transaction().await?;
    ensure!(lost.hold(&tx).await.is_err(), "the lost term still holds");
    let now = running.view.office(&first).expect("led");
    drop(tx);
    let tx = session.transaction().await?;
    now.hold(&tx).await?;
    drop(tx);
    running.end().await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_daemons_one_leads_all_services_and_they_change_over_whole() -> Result<()> {
    let site = Site::new("beijing", &["one", "two", "three"]).await?;
    let all = ["one", "two", "three"];
    let tasks: Vec<_> = (0..3)
        .map(|_| Task::new(When::After(Duration::ZERO)))
        .collect();
    let mut daemons = Vec::new();
    for (n, task) in tasks.iter().enumerate() {
        let daemon = start(&site, &format!("{n}.sock"), task.clone());
        daemons.push((daemon, task));
    }
    while !daemons.is_empty() {
        let mut leader = None;
        wait_until("one leads all, the others nothing", PATIENCE, async || {
            let led = |running: &Running| all.iter().filter(|one| running.leads(one)).count();
            let counts: Vec<_> = daemons.iter().map(|(daemon, _)| led(daemon)).collect();
            leader = counts.iter().position(|count| *count == all.len());
            Ok(leader.is_some() && counts.iter().sum::<usize>() == all.len())
        })
        .await?;
        let (leader, task) = daemons.remove(leader.expect("found"));
        // It leads before its work is called.
        task.until("its work runs", |seen| seen.running as usize == all.len())
            .await?;
        leader.end().await??;
    }
    // In every service, each of three terms was one daemon's.
    for n in 0..3 {
        let term: i64 = site
            .client(n)
            .await?
            .query_one(
                "SELECT term FROM domicile.office WHERE name = $1",
                &[&daemon::OFFICE],
            )
            .await?
            .get(0);
        ensure!(term >= 3, "{term}");
    }
    let mut terms: Vec<i64> = Vec::new();
    for task in &tasks {
        let seen = task
            .until("its work is over", |seen| seen.running == 0)
            .await?;
        ensure!(seen.calls == 3 && seen.safe == 3, "{seen:?}");
        terms.extend(&seen.terms);
    }
    ensure!(terms.len() == 9, "{terms:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_database_does_not_hold_up_the_other_service() -> Result<()> {
    let site = Site::new("beijing", &["gone", "stays"]).await?;
    site.client(1)
        .await?
        .batch_execute("DROP DATABASE gone_beijing")
        .await?;
    let task = Task::new(When::After(Duration::ZERO));
    let running = start(&site, "a.sock", task.clone());
    running.until_it_leads(&["stays"], &["gone"]).await?;
    running.end().await??;
    Ok(())
}
