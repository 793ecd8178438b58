//! A request goes to its user's home, wherever it came in and whatever is believed of him.

mod support;

use std::time::Duration;

use gateway::homes::SiteId;
use gateway::site::{Limits, Moment, Stand};
use support::{SITES, until, world, world_with};

const HERE: Stand = Stand::Here { epoch: 5 };

fn at(site: usize, epoch: i64) -> Stand {
    Stand::Elsewhere {
        site: SITES[site].into(),
        epoch,
    }
}

#[tokio::test]
async fn it_is_served_at_home_wherever_it_came_in() {
    let [beijing, singapore] = world().await;
    beijing.records.set("1", HERE);
    singapore.records.set("2", HERE);
    beijing.records.set("2", at(1, 5));
    for _ in 0..2 {
        for site in [&beijing, &singapore] {
            assert_eq!(site.get("1", "/x").await.body, "beijing /x 0");
            assert_eq!(site.get("2", "/x").await.body, "singapore /x 0");
            assert_eq!(site.post("1", "/y", b"abc").await.body, "beijing /y 3");
            assert_eq!(
                site.post("2", "/y", &[7; 300_000]).await.body,
                "singapore /y 300000"
            );
        }
    }
    assert_eq!(beijing.application.heard().len(), 8);
    assert_eq!(singapore.application.heard().len(), 8);
}

#[tokio::test]
async fn one_wrong_turn_and_the_home_is_known() {
    let [beijing, singapore] = world().await;
    beijing.records.set("1", at(1, 7));
    singapore.records.set("1", Stand::Here { epoch: 7 });
    // Beijing believes a stale word; so does nobody for long.
    beijing.homes().record(beijing.hash("1"), SiteId(1), 7);
    singapore.homes().hear(singapore.hash("1"), SiteId(0), 3);
    assert_eq!(beijing.get("1", "/x").await.body, "singapore /x 0");
    assert_eq!(singapore.get("1", "/x").await.body, "singapore /x 0");
    assert_eq!(beijing.application.heard().len(), 0);
}

#[tokio::test]
async fn two_sites_that_each_name_the_other_serve_nobody() {
    let [beijing, singapore] = world().await;
    beijing.records.set("1", at(1, 7));
    singapore.records.set("1", at(0, 7));
    for body in [&b"small"[..], &[1; 200_000]] {
        let reply = beijing.post("1", "/x", body).await;
        assert_eq!(reply.status, 503, "{}", reply.body);
        assert!(reply.head.contains("retry-after: 1"));
    }
    assert!(beijing.application.heard().is_empty() && singapore.application.heard().is_empty());
}

#[tokio::test]
async fn poisoned_memory_moves_nobody_who_lives_here() {
    let [beijing, singapore] = world().await;
    beijing.records.set("1", HERE);
    assert_eq!(beijing.get("1", "/x").await.status, 200);
    beijing.homes().hear(beijing.hash("1"), SiteId(1), i64::MAX);
    assert_eq!(beijing.get("1", "/x").await.body, "beijing /x 0");
    // Somebody of whom nothing else is known: the site that was named says that it is not his home.
    beijing.records.set("2", HERE);
    singapore
        .homes()
        .hear(singapore.hash("2"), SiteId(0), i64::MAX);
    assert_eq!(singapore.get("2", "/x").await.body, "beijing /x 0");
    assert!(singapore.application.heard().is_empty());
}

#[tokio::test]
async fn a_newcomer_is_asked_for_at_the_origin_and_goes_where_policy_sends_him() {
    let [beijing, singapore] = world().await;
    // Without a word of policy: the origin.
    assert_eq!(singapore.get("9", "/x").await.body, "beijing /x 0");
    assert_eq!(beijing.get("9", "/x").await.body, "beijing /x 0");
}

#[tokio::test]
async fn without_a_lease_nobody_passes_to_the_application() {
    let mut limits = Limits::default();
    limits.parking.time = Duration::from_millis(50);
    let [beijing, _singapore] = world_with(limits).await;
    beijing.records.set("1", HERE);
    beijing.gateway.services[0].lease.end();
    let reply = beijing.get("1", "/x").await;
    assert_eq!(reply.status, 503);
    assert!(reply.head.contains("retry-after: 1"));
    assert!(beijing.application.heard().is_empty());
}

#[tokio::test]
async fn while_the_lease_is_renewed_requests_wait() {
    let [beijing, _singapore] = world().await;
    beijing.records.set("1", HERE);
    let lease = &beijing.gateway.services[0].lease;
    lease.end();
    let renews = async {
        until(|| beijing.gateway.doors.parked() == 1).await;
        lease.renewed(Moment::now(), Duration::from_secs(3600));
    };
    let (reply, ()) = tokio::join!(beijing.get("1", "/x"), renews);
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn what_gateways_say_to_each_other_nobody_else_can_say_or_hear() {
    let [beijing, singapore] = world().await;
    singapore.records.set("2", HERE);
    beijing.records.set("2", at(1, 5));
    let mut client = beijing.connect().await;
    client
        .send("GET /x HTTP/1.1\r\nhost: shop\r\nx-user: 2\r\nDomicile-Hops: 3\r\ndomicile-newcomer: yes\r\nDomicile-Epoch: 9\r\n\r\n")
        .await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.body.as_str()), (200, "singapore /x 0"));
    assert!(
        !reply.head.to_ascii_lowercase().contains("domicile"),
        "{}",
        reply.head
    );
    let heard = singapore.application.heard();
    assert!(
        !heard[0].head.to_ascii_lowercase().contains("domicile"),
        "{}",
        heard[0].head
    );
}

#[tokio::test]
async fn whom_the_application_names_is_served_at_his_home() {
    let [beijing, singapore] = world().await;
    beijing.records.set("7", at(1, 5));
    singapore.records.set("7", HERE);
    singapore.records.set("8", HERE);
    let login = async |path: &str, fields: &str| {
        let mut client = beijing.connect().await;
        client
            .send(format!(
                "POST {path} HTTP/1.1\r\nhost: shop\r\n{fields}content-length: 3\r\n\r\nabc"
            ))
            .await;
        client.reply().await
    };
    // Known by the records; unknown to them, but the application says where; known by what was heard the time before.
    for (path, body) in [
        ("/login/7", "singapore /login/7 3"),
        ("/login/8@singapore", "singapore /login/8@singapore 3"),
        ("/login/8", "singapore /login/8 3"),
    ] {
        let reply = login(path, "").await;
        assert_eq!((reply.status, reply.body.as_str()), (200, body));
        assert!(!reply.head.to_ascii_lowercase().contains("domicile"));
    }
    assert_eq!(beijing.application.count("/login"), 3);
    // An application where he does not live, and one that names nobody who can be: nothing goes round for ever.
    assert_eq!(login("/login/0x7", "").await.status, 503);
    // Only an application says so: not a client, and not for a request that has a user.
    let reply = login("/x", "domicile-user: 7\r\n").await;
    assert_eq!(reply.body, "beijing /x 3");
    beijing.records.set("1", HERE);
    let reply = login("/login/7", "x-user: 1\r\n").await;
    assert_eq!(reply.status, 503);
    assert_eq!(singapore.application.count("/login"), 3);
}

#[tokio::test]
async fn a_write_whose_path_is_cut_is_executed_once_and_answered() {
    let [beijing, singapore] = world().await;
    beijing.records.set("7", at(1, 5));
    singapore.records.set("7", HERE);
    let cuts = async {
        until(|| singapore.application.count("/gate") == 1).await;
        singapore.relay.cut().await;
        singapore.application.gate.add_permits(1);
    };
    let (reply, ()) = tokio::join!(beijing.post("7", "/gate", b"abc"), cuts);
    assert_eq!(
        (reply.status, reply.body.as_str()),
        (200, "singapore /gate 3")
    );
    assert_eq!(singapore.application.count("/gate"), 1);
    assert_eq!(beijing.application.heard(), []);

    // One that the application breaks off is not known of, path or no path.
    let reply = beijing.post("7", "/break", b"abc").await;
    assert_eq!(reply.status, 502);
    assert_eq!(singapore.application.count("/break"), 1);
}
