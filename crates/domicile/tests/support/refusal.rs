//! A small home at two sites, for what must be refused: with the thing and the mend named, no secret printed, and
//! nothing changed.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};

use super::program::Ran;
use super::{Clusters, SITES, World};

/// Stands as password in every URL; the clusters ask for none. Nothing may print it.
pub const SECRET: &str = "geheim-7Qx";

/// Twelve people: 1-6 of IN, 7-9 of CN, 10 of no land, 11-12 of SG. Two items each.
const SCHEMA: &str = "
    CREATE TABLE kind (id int PRIMARY KEY, name text NOT NULL);
    CREATE TABLE person (id int PRIMARY KEY, land text, email text UNIQUE, age int NOT NULL DEFAULT 0);
    CREATE TABLE item (id int PRIMARY KEY, person_id int NOT NULL REFERENCES person, kind_id int REFERENCES kind,
                       body text);
    INSERT INTO kind VALUES (1, 'book'), (2, 'pen');";
const PEOPLE: &str = "
    INSERT INTO person SELECT n, CASE WHEN n <= 6 THEN 'IN' WHEN n <= 9 THEN 'CN' WHEN n >= 11 THEN 'SG' END,
                              'p' || n || '@example.com' FROM generate_series(1, 12) AS n;
    INSERT INTO item SELECT n, (n + 1) / 2, 1 + n % 2, 'body' FROM generate_series(1, 24) AS n;";

/// Everything in a database that a command could have changed: rows of every table but those that say which
/// process acts and what it is at, triggers, slots, the publication, roles of movers.
const EVERYTHING: &str = r"
    SELECT md5(coalesce(string_agg(part, ',' ORDER BY part COLLATE pg_catalog.default), '')) FROM (
      SELECT format('%s.%s %s', schemaname, tablename, md5(query_to_xml(
               format('SELECT t::text FROM %I.%I AS t ORDER BY 1', schemaname, tablename), true, true, '')::text))
        FROM pg_tables WHERE schemaname IN ('public', 'domicile') AND tablename NOT IN ('office', 'activity')
      UNION ALL SELECT format('%s %s', tgrelid::regclass, tgname) FROM pg_trigger WHERE NOT tgisinternal
      UNION ALL SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE database = current_database()
      UNION ALL SELECT 'publication ' || pubname FROM pg_publication
      UNION ALL SELECT 'role ' || rolname FROM pg_roles WHERE rolname = 'mover_' || current_database()
    ) AS parts(part)";

/// What a command is to answer.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    /// Its exit code.
    pub code: i32,
    /// What it says, on either stream: the thing, and the mend.
    pub says: &'a [&'a str],
}

/// A refusal with `code` that names each of `says`.
pub const fn refusal<'a>(code: i32, says: &'a [&'a str]) -> Refusal<'a> {
    Refusal { code, says }
}

impl Refusal<'_> {
    /// Holds what a command answered against this.
    pub fn hold(&self, ran: &Ran) -> Result<()> {
        ensure!(ran.code == Some(self.code), "{} wanted: {ran}", self.code);
        // JSON has quotation marks of its own.
        let both = format!("{}\n{}", ran.stdout, ran.stderr).replace("\\\"", "\"");
        for part in self.says {
            ensure!(both.contains(part), "{part:?} wanted: {ran}");
        }
        ensure!(!both.contains(SECRET), "a secret is printed: {ran}");
        Ok(())
    }
}

// === impl World ===

impl World {
    /// The small home, configured; not installed.
    pub async fn small(clusters: Arc<Clusters>, name: &str) -> Result<World> {
        let world = World::empty(clusters, name).await?;
        for site in [0, 1] {
            world.admin(site).await?.batch_execute(SCHEMA).await?;
        }
        world.admin(0).await?.batch_execute(PEOPLE).await?;
        world.write("domicile.toml", &world.small_configuration())?;
        Ok(world)
    }

    /// The small home, installed.
    pub async fn small_installed(clusters: Arc<Clusters>, name: &str) -> Result<World> {
        let world = World::small(clusters, name).await?;
        world.install_small().await?.expect(0)?;
        Ok(world)
    }

    /// `install` as administrator of both sites.
    pub async fn install_small(&self) -> Result<Ran> {
        let admin = [0, 1].map(|n| format!("{}={}", SITES[n], self.admin_url(n)));
        let args = ["install", "--admin", &admin[0], "--admin", &admin[1]];
        self.program(&args).run().await
    }

    /// Installs at one site alone.
    pub async fn install_small_at(&self, site: usize) -> Result<Ran> {
        let admin = format!("{}={}", SITES[site], self.admin_url(site));
        let args = ["install", "--site", SITES[site], "--admin", &admin];
        self.program(&args).run().await
    }

    /// Its configuration: the first lines are fixed, so that tests can name them.
    pub fn small_configuration(&self) -> String {
        let name = &self.name;
        let url = |site: usize| self.mover_url(site).replace('@', &format!(":{SECRET}@"));
        format!(
            "[site.beijing]\n[site.singapore]\n[site.mumbai]\n\n[service.{name}]\norigin = \"beijing\"\n\
             user = {{ table = \"person\", key = \"id\", market = \"land\" }}\nids = \"application\"\n\
             database.beijing = \"{}\"\ndatabase.singapore = \"{}\"\n\n[service.{name}.tables]\n\
             item = \"person_id\"\nkind = \"reference\"\n\n[policy]\npinned = {{ CN = \"beijing\" }}\n\n\
             [[phase]]\nname = \"out\"\nservice = [\"{name}\"]\nhome = {{ IN = \"singapore\" }}\n\
             basis = {{ code = \"test\", document = \"T-1\", expires = \"2999-01-01\" }}\n",
            url(0),
            url(1),
        )
    }

    /// Writes a file into the folder.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        Ok(std::fs::write(self.path(file), text)?)
    }

    /// Writes `domicile.toml` with `old` replaced, which must stand in it.
    pub fn reconfigure(&self, old: &str, new: &str) -> Result<()> {
        let text = self.small_configuration();
        ensure!(text.contains(old), "{old} does not stand in {text}");
        self.write("domicile.toml", &text.replace(old, new))
    }

    /// A digest of everything at both sites that a command could change.
    pub async fn everything(&self) -> Result<[String; 2]> {
        Ok([
            self.value(0, EVERYTHING).await?,
            self.value(1, EVERYTHING).await?,
        ])
    }

    /// Runs a command that must answer so, and leave both sites as they are.
    pub async fn refused(&self, args: &[&str], wanted: Refusal<'_>) -> Result<()> {
        self.all_refused(&[(args, wanted)]).await
    }

    /// As [`World::refused`], of several commands.
    pub async fn all_refused(&self, cases: &[(&[&str], Refusal<'_>)]) -> Result<()> {
        self.refused_with(&[], cases).await
    }

    /// As [`World::all_refused`], with variables set.
    pub async fn refused_with(
        &self,
        variables: &[(&str, &str)],
        cases: &[(&[&str], Refusal<'_>)],
    ) -> Result<()> {
        let before = self.everything().await?;
        for (args, wanted) in cases {
            let program = variables
                .iter()
                .fold(self.program(args), |program, (name, value)| {
                    program.env(name, value)
                });
            let ran = program.run().await?;
            wanted.hold(&ran).with_context(|| args.join(" "))?;
        }
        ensure!(
            before == self.everything().await?,
            "one of {cases:?} changed something"
        );
        Ok(())
    }

    /// Makes the application's tables anew, where nothing is installed.
    pub async fn reset(&self, site: usize) -> Result<()> {
        let people = if site == 0 { PEOPLE } else { "" };
        let anew = format!("DROP SCHEMA public CASCADE; CREATE SCHEMA public; {SCHEMA} {people}");
        self.execute(site, &anew).await
    }

    /// Runs statements as superuser.
    pub async fn execute(&self, site: usize, sql: &str) -> Result<()> {
        Ok(self.admin(site).await?.batch_execute(sql).await?)
    }
}
