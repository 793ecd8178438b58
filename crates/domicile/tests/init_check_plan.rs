//! Chinook, unchanged, through the commands that only look: `init`, `check`, `plan`.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, Result};
use serde_json::Value;
use testbed::{Cluster, ClusterOptions};

const POLICY: &str = r#"
[policy]
pinned = { Canada = "beijing" }

[[phase]]
name = "home"
service = ["shop"]
home = { Brazil = "sao-paulo", "*" = "singapore" }
basis = { code = "test", document = "T-1", expires = "2999-01-01" }
"#;

fn domicile(folder: &Path, args: &[&str]) -> Result<Output> {
    let program = env!("CARGO_BIN_EXE_domicile");
    Command::new(program)
        .current_dir(folder)
        .args(args)
        .output()
        .context("cannot run domicile")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn load(url: &str, catalogue_alone: bool) -> Result<()> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    let driver = tokio::spawn(connection);
    match catalogue_alone {
        true => shop::chinook::load_catalogue(&client).await?,
        false => shop::chinook::load(&client).await?,
    }
    drop(client);
    driver.await??;
    Ok(())
}

#[tokio::test]
async fn chinook_is_proposed_checked_and_planned() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions {
        fsync: false,
        ..ClusterOptions::named("plan")
    })
    .await?;
    let mut sites = Vec::new();
    for site in ["beijing", "singapore", "sao-paulo"] {
        cluster.create_database(site).await?;
        let url = cluster.url("postgres", site);
        load(&url, site != "beijing").await?;
        sites.push(format!("{site}={url}"));
    }
    let folder = tempfile::tempdir()?;

    let mut args = vec![
        "init",
        "--service",
        "shop",
        "--user-table",
        "customer",
        "--market",
        "country",
    ];
    args.extend(sites.iter().flat_map(|site| ["--site", site.as_str()]));
    let init = domicile(folder.path(), &args)?;
    assert_eq!(init.status.code(), Some(0), "{}", text(&init.stderr));
    let proposed = text(&init.stdout);
    for line in [
        "invoice = \"customer_id\"",
        "invoice_line = \"invoice_id -> invoice\"",
        "employee = \"reference\"",
        "ids = \"application\"",
    ] {
        assert!(proposed.contains(line), "{line} is missing in\n{proposed}");
    }
    std::fs::write(folder.path().join("domicile.toml"), proposed + POLICY)?;

    let check = domicile(folder.path(), &["check", "--json"])?;
    let findings: Value =
        serde_json::from_slice(&check.stdout).with_context(|| text(&check.stderr))?;
    // Nothing is installed yet: that is found, and found everywhere.
    assert_eq!(check.status.code(), Some(1), "{findings}");
    let blockers = findings["findings"].as_array().into_iter().flatten();
    for finding in blockers.filter(|finding| finding["level"] == "blocker") {
        assert!(
            finding["what"]
                .as_str()
                .is_some_and(|what| what.contains("install")),
            "{finding}"
        );
        assert!(
            finding["mend"]
                .as_str()
                .is_some_and(|mend| mend.contains("install")),
            "{finding}"
        );
    }

    let plan = domicile(folder.path(), &["plan", "--json"])?;
    let plan: Value = serde_json::from_slice(&plan.stdout).with_context(|| text(&plan.stderr))?;
    assert_eq!(plan["phase"], "home");
    let moves: Vec<&Value> = plan["moves"].as_array().into_iter().flatten().collect();
    let users: u64 = moves.iter().filter_map(|m| m["users"].as_u64()).sum();
    let rows: u64 = moves.iter().filter_map(|m| m["rows"].as_u64()).sum();
    // 59 customers, 8 of them Canadians, who are pinned.
    assert_eq!((users, moves.len()), (51, 23), "{plan}");
    assert!(
        rows > 51 && moves.iter().all(|m| m["bytes"].as_u64() > Some(0)),
        "{plan}"
    );
    let brazil = moves
        .iter()
        .find(|m| m["market"] == "Brazil")
        .context("nobody in Brazil")?;
    assert_eq!(
        (&brazil["to"], &brazil["users"]),
        (&"sao-paulo".into(), &5.into())
    );
    assert_eq!(plan["stay"][0]["users"], 8);
    assert_eq!(plan["stay"][0]["rule"], "pinned");
    assert_eq!(plan["drift"], serde_json::json!([]));

    let table = domicile(folder.path(), &["plan"])?;
    assert!(
        text(&table.stdout).contains("51 users, "),
        "{}",
        text(&table.stdout)
    );
    let nowhere = domicile(folder.path(), &["plan", "--phase", "moon"])?;
    assert_eq!(nowhere.status.code(), Some(2));
    assert!(text(&nowhere.stderr).contains("there is no phase \"moon\"; there are: home"));
    Ok(())
}

#[test]
fn wrong_use_configuration_and_reach_have_their_exit_codes() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let code = |args: &[&str]| -> Result<(Option<i32>, String)> {
        let output = domicile(folder.path(), args)?;
        Ok((output.status.code(), text(&output.stderr)))
    };
    assert_eq!(code(&["fly"])?.0, Some(2));
    let (exit, words) = code(&["plan"])?;
    assert_eq!(exit, Some(2));
    assert!(
        words.starts_with("error: cannot read the configuration domicile.toml\n  caused by: "),
        "{words}"
    );
    assert!(words.contains("\nmend: "), "{words}");
    let nobody = "postgres://u:geheim@127.0.0.1:1/nobody";
    let config = format!(
        "[site.a]\n[service.shop]\norigin = \"a\"\nids = \"uuid\"\nuser = {{ table = \"t\", key = \"k\" }}\ndatabase.a = \"{nobody}\"\n"
    );
    std::fs::write(folder.path().join("domicile.toml"), config)?;
    for command in ["plan", "check"] {
        let (exit, words) = code(&[command])?;
        assert_eq!(exit, Some(3), "{command}: {words}");
        assert!(!words.contains("geheim"), "{words}");
    }
    Ok(())
}
