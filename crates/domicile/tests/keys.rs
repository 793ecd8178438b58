//! `keys`, as people run it: files, pins, and changing a key.

mod support;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Result, ensure};
use link::Identity;
use serde_json::Value;
use support::program::{Program, Ran};

const CONFIG: &str = r#"[site.beijing]
key = { file = "keys/bj.key" }
[site.singapore]
[service.shop]
origin = "beijing"
user = { table = "customer", key = "customer_id", market = "country" }
ids = "uuid"
database.beijing = "postgres://b/shop"
"#;

async fn keys(folder: &Path, args: &str, code: i32) -> Result<Ran> {
    let args: Vec<&str> = args.split(' ').collect();
    Program::new(folder, &[&["keys"], args.as_slice()].concat())
        .run()
        .await?
        .expect(code)
}

fn pins(ran: &Ran) -> Result<Vec<String>> {
    let shown: Value = serde_json::from_str(&ran.stdout)?;
    Ok(serde_json::from_value(shown["pins"].clone())?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_made_shown_and_changed_and_never_printed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path();
    std::fs::write(at.join("domicile.toml"), CONFIG)?;
    std::fs::create_dir(at.join("keys"))?;
    let file = at.join("keys/bj.key");
    let mut said = String::new();
    let mut heard = |ran: Ran| -> Ran {
        said += &(ran.stdout.clone() + &ran.stderr);
        ran
    };

    let missing = heard(keys(at, "show --site beijing", 2).await?);
    ensure!(
        missing.stderr.contains("mend: `domicile keys new`"),
        "{}",
        missing.stderr
    );
    let made = heard(keys(at, "new --site beijing --json", 0).await?);
    ensure!(std::fs::metadata(&file)?.mode() & 0o7777 == 0o600);
    let old = Identity::load(&file)?.pin().to_string();
    ensure!(pins(&made)? == [old.clone()], "{}", made.stdout);
    let first = std::fs::read_to_string(&file)?;
    let again = heard(keys(at, "new --site beijing", 2).await?);
    ensure!(again.stderr.contains("keys rotate"), "{}", again.stderr);
    ensure!(std::fs::read_to_string(&file)? == first);

    let none = heard(keys(at, "rotate --site beijing --activate", 2).await?);
    ensure!(none.stderr.contains("no next key"), "{}", none.stderr);
    let prepared = pins(&heard(keys(at, "rotate --site beijing --json", 0).await?))?;
    ensure!(prepared.len() == 2 && prepared[0] == old, "{prepared:?}");
    // Once more makes no third key.
    ensure!(pins(&heard(keys(at, "rotate --site beijing --json", 0).await?))? == prepared);
    ensure!(pins(&heard(keys(at, "show --site beijing --json", 0).await?))? == prepared);
    ensure!(
        std::fs::read_to_string(&file)? == first,
        "the key in use is the old one"
    );
    let next = std::fs::read_to_string(at.join("keys/bj.key.next"))?;
    let activated = pins(&heard(
        keys(at, "rotate --site beijing --activate --json", 0).await?,
    ))?;
    ensure!(activated == [prepared[1].clone()], "{activated:?}");
    ensure!(std::fs::read_to_string(&file)? == next);
    ensure!(std::fs::read_to_string(at.join("keys/bj.key.previous"))? == first);
    heard(keys(at, "rotate --site beijing --activate", 2).await?);

    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644))?;
    let exposed = heard(keys(at, "show --site beijing", 2).await?);
    ensure!(exposed.stderr.contains("chmod 600"), "{}", exposed.stderr);
    let unnamed = heard(keys(at, "show --site singapore", 2).await?);
    ensure!(
        unnamed.stderr.contains("names no key file of singapore"),
        "{}",
        unnamed.stderr
    );

    for secret in [first, next] {
        let key = secret.lines().nth(1).unwrap_or_default();
        ensure!(
            key.len() == 64 && !said.contains(&key[20..40]),
            "a key was printed"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_can_be_made_before_there_is_a_configuration() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let made = keys(folder.path(), "new --site mumbai --out mumbai.key", 0).await?;
    let pin = Identity::load(&folder.path().join("mumbai.key"))?
        .pin()
        .to_string();
    ensure!(
        made.stdout.contains(&format!("pins = [{pin:?}]")),
        "{}",
        made.stdout
    );
    ensure!(
        made.stdout.contains(r#"key = { file = "mumbai.key" }"#),
        "{}",
        made.stdout
    );
    Ok(())
}
