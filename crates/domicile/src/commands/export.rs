//! `export`: everything that is kept of one user, in open formats, with a manifest.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use handoff::record::State;
use model::table::OwnedTable;
use model::{ServiceName, SiteName, UserKey};
use postgres::export;
use residency::{entries, records};
use serde_json::json;
use tokio_postgres::{IsolationLevel, Transaction};

use super::homes::Home;
use super::{show, users, whereabouts};
use crate::cli::Export;
use crate::config::{Config, Service};
use crate::exit::{Exit, Failure, OrFail, Outcome};
use crate::render::Form;
use crate::render::export::{Exported, ExportedTable, Manifest, render};

/// Reads at each service's home of him, under one snapshot each, and writes a new folder: complete, or not at all. 1 where
/// he lives nowhere, or something of his is not in it; 2 where the key can be nobody's; 3 where a home was not reached.
pub async fn run(config: &Config, args: &Export) -> Outcome {
    let services = whereabouts::services(config, args.service.as_deref())?;
    let user = UserKey::from(args.user.as_str());
    let folder = Folder::make(&args.out)?;
    let mut manifest = Manifest {
        user: user.to_string(),
        format: "JSON Lines; each line is a row as row_to_json of PostgreSQL writes it".to_owned(),
        services: Vec::new(),
        left_out: Vec::new(),
    };
    let mut refused = None;
    for (name, service) in services {
        match of_service(config, (name, service), &user, &folder).await {
            Ok(exported) => manifest.services.extend(exported),
            // A key may be of one service's form and not of another's.
            Err(failure) if failure.exit == Exit::Usage => {
                refused = Some(failure);
                continue;
            }
            Err(failure) => return Err(failure),
        }
        let left = service
            .left_behind
            .iter()
            .map(|(key, _)| format!("{name}: {key}"));
        manifest.left_out.extend(left);
    }
    if manifest.services.is_empty() {
        return Err(refused.unwrap_or_else(|| {
            Failure::new(
                Exit::Unfinished,
                anyhow::anyhow!("{user} lives nowhere that we know"),
            )
            .mend("`domicile where USER` shows what each site says of him")
        }));
    }
    folder.finish(&manifest)?;
    show(&render(
        &manifest,
        &args.out,
        Form::of_stdout(args.json.json),
    ))?;
    Ok(match manifest.left_out.is_empty() {
        true => Exit::Done,
        false => Exit::Unfinished,
    })
}

/// What one service keeps of him at his home; `None` where he lives nowhere in it.
async fn of_service(
    config: &Config,
    (name, service): (&ServiceName, &Service),
    asked: &UserKey,
    folder: &Folder,
) -> Outcome<Option<Exported>> {
    let (found, unreached) = whereabouts::of_service(config, name, service, asked).await?;
    let Some(site) = found.home.map(SiteName::from) else {
        return match unreached {
            true => Err(Failure::new(
                Exit::Unreached,
                anyhow::anyhow!(
                    "{name}: no site that was reached knows {asked}, and not all were reached"
                ),
            )),
            false => Ok(None),
        };
    };
    let mut home = Home::open_installed(name, service, &site, "export").await?;
    let schema = home.schema()?.clone();
    let user = users::canonical(schema.users.kind, asked)
        .ok_or_else(|| whereabouts::no_key(asked, name))?;
    let failed = || format!("{name}: cannot read the user at {site}");
    let tx = home
        .session
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .start()
        .await
        .or_fail(Exit::Unreached, failed)?;
    // By the snapshot that the rows are read under.
    let mut record = records::look(&tx, schema.users.kind, std::slice::from_ref(&user))
        .await
        .or_fail(Exit::Unreached, failed)?;
    let epoch = match record.pop().flatten() {
        // Offered, he may live at the other site by now, and have written there.
        Some(record)
            if record.state.is_home() && !matches!(record.state, State::Offered { .. }) =>
        {
            record.seen.0
        }
        _ => {
            return Err(Failure::new(
                Exit::Unfinished,
                anyhow::anyhow!("{name}: {user} is changing his home at {site} just now"),
            )
            .mend("run the command again; `domicile status` shows batches in doubt"));
        }
    };
    let mut exported = Exported {
        service: name.to_string(),
        site: site.to_string(),
        epoch,
        read_at: String::new(),
        tables: Vec::new(),
    };
    let now = "SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    let row = tx
        .query_one(now, &[])
        .await
        .or_fail(Exit::Unreached, failed)?;
    exported.read_at = row.get(0);
    for table in &schema.owned {
        let written = write_table(&tx, &schema, table, &user, (name, folder)).await?;
        exported.tables.push(written);
    }
    tx.commit().await.or_fail(Exit::Unreached, failed)?;
    // By itself: under the snapshot of the reading, what others enter of him at the same time would fail it.
    let rows: u64 = exported.tables.iter().map(|table| table.rows).sum();
    let body = json!({"service": name, "rows": rows});
    entries::append(&*home.session, "exported", body, &[user])
        .await
        .or_fail(Exit::Unreached, failed)?;
    Ok(Some(exported))
}

async fn write_table(
    tx: &Transaction<'_>,
    schema: &model::table::HomeSchema,
    table: &OwnedTable,
    user: &UserKey,
    (name, folder): (&ServiceName, &Folder),
) -> Outcome<ExportedTable> {
    let path = format!("{name}/{}.jsonl", file_name(&table.name.to_string()));
    let unwritten = || format!("cannot write {}", folder.path(&path).display());
    let file = folder.create(&path).or_fail(Exit::Unreached, unwritten)?;
    let mut file = std::io::BufWriter::new(file);
    let mut hash = blake3::Hasher::new();
    let rows = export::rows(tx, schema, table, user, |line| {
        hash.update(line.as_bytes());
        hash.update(b"\n");
        writeln!(file, "{line}")
    })
    .await
    .or_fail(Exit::Unreached, || format!("{name}: cannot read a table"))?
    .or_fail(Exit::Unreached, unwritten)?;
    let file = file.into_inner().map_err(|error| error.into_error());
    file.and_then(|file| file.sync_all())
        .or_fail(Exit::Unreached, unwritten)?;
    Ok(ExportedTable {
        table: table.name.to_string(),
        file: path,
        rows,
        blake3: hash.finalize().to_hex().to_string(),
    })
}

/// A table's name as that of a file: whatever is not plain stands there as `%` and its bytes in hexadecimal.
fn file_name(table: &str) -> String {
    let mut name = String::new();
    for byte in table.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' => {
                name.push(char::from(byte))
            }
            other => name.push_str(&format!("%{other:02x}")),
        }
    }
    name
}

/// The folder that is being written, beside where it will stand, for its owner's eyes alone.
struct Folder {
    wanted: PathBuf,
    partial: tempfile::TempDir,
}

// === impl Folder ===

impl Folder {
    fn make(wanted: &Path) -> Outcome<Self> {
        if wanted.exists() {
            return Err(
                Failure::usage(format_args!("{} is there already", wanted.display()))
                    .mend("name a folder that does not exist yet"),
            );
        }
        let parent = match wanted.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let partial = tempfile::Builder::new()
            .prefix(".domicile-export-")
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir_in(parent)
            .or_fail(Exit::Usage, || {
                format!("cannot make a folder in {}", parent.display())
            })?;
        Ok(Self {
            wanted: wanted.to_owned(),
            partial,
        })
    }

    fn path(&self, path: &str) -> PathBuf {
        self.partial.path().join(path)
    }

    fn create(&self, path: &str) -> std::io::Result<std::fs::File> {
        let path = self.path(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::File::create_new(path)
    }

    /// With its manifest, puts the folder where it was wanted.
    fn finish(self, manifest: &Manifest) -> Outcome<()> {
        let unwritten = || format!("cannot write {}", self.wanted.display());
        let text = serde_json::to_string_pretty(manifest).or_fail(Exit::Unreached, unwritten)?;
        let mut file = self
            .create("manifest.json")
            .or_fail(Exit::Unreached, unwritten)?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.write_all(b"\n"))
            .and_then(|()| file.sync_all())
            .or_fail(Exit::Unreached, unwritten)?;
        std::fs::rename(self.partial.path(), &self.wanted).or_fail(Exit::Unreached, unwritten)?;
        // It is not there any more under that name.
        let _ = self.partial.keep();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tables_become_names_of_files() {
        assert_eq!(file_name("public.order_line"), "public.order_line");
        assert_eq!(file_name("\"Zoo\".\"../x\""), "%22Zoo%22.%22..%2fx%22");
    }
}
