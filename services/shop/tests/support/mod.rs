//! A shop at two sites with the smallest guard and mover that keep the promises: enough to test
//! writers and checker without Domicile.

use std::time::Duration;

use anyhow::{Context as _, Result};
use shop::{Site, chinook};
use testbed::{Cluster, ClusterOptions};
use tokio_postgres::{Client, NoTls};

/// Refuses writes as Domicile's guard does. `residence` says who lives here; who is not in it does
/// not.
const GUARD: &str = r#"
CREATE TABLE residence (customer_id int PRIMARY KEY, state text NOT NULL, home text NOT NULL);

CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    owner int;
    found residence;
BEGIN
    IF TG_TABLE_NAME = 'invoice_line' THEN
        SELECT customer_id INTO owner FROM invoice
        WHERE invoice_id = CASE TG_OP WHEN 'DELETE' THEN OLD.invoice_id ELSE NEW.invoice_id END;
    ELSE
        owner := CASE TG_OP WHEN 'DELETE' THEN OLD.customer_id ELSE NEW.customer_id END;
    END IF;
    PERFORM pg_advisory_xact_lock_shared(owner);
    SELECT * INTO found FROM residence WHERE customer_id = owner FOR SHARE;
    IF found.state = 'settled' THEN
        RETURN NULL;
    ELSIF found.state = 'fenced' THEN
        RAISE EXCEPTION 'moving' USING ERRCODE = '40001';
    END IF;
    RAISE EXCEPTION 'not here' USING ERRCODE = 'DM421',
        DETAIL = json_build_object('home', coalesce(found.home, 'beijing'), 'epoch', 1)::text;
END $$;

CREATE TRIGGER "A_GUARD" AFTER INSERT OR UPDATE OR DELETE ON customer
    FOR EACH ROW EXECUTE FUNCTION guard();
CREATE TRIGGER "A_GUARD" AFTER INSERT OR UPDATE OR DELETE ON invoice
    FOR EACH ROW EXECUTE FUNCTION guard();
CREATE TRIGGER "A_GUARD" AFTER INSERT OR UPDATE OR DELETE ON invoice_line
    FOR EACH ROW EXECUTE FUNCTION guard();
"#;

/// Reads a user's rows as JSON, so that they can be planted elsewhere.
const READ: [(&str, &str); 3] = [
    (
        "customer",
        "SELECT coalesce(json_agg(c)::text, '[]') FROM customer c WHERE customer_id = $1",
    ),
    (
        "invoice",
        "SELECT coalesce(json_agg(i)::text, '[]') FROM invoice i WHERE customer_id = $1",
    ),
    (
        "invoice_line",
        "SELECT coalesce(json_agg(l)::text, '[]') FROM invoice_line l
         JOIN invoice i USING (invoice_id) WHERE customer_id = $1",
    ),
];

/// Chinook at beijing, its catalogue at singapore and california; one cluster, three databases.
pub struct Shop {
    pub cluster: Cluster,
    pub sites: Vec<Site>,
}

impl Shop {
    pub async fn open(name: &str) -> Result<Shop> {
        let cluster = Cluster::start(ClusterOptions::named(name)).await?;
        let mut sites = Vec::new();
        for site in ["beijing", "singapore", "california"] {
            cluster.create_database(site).await?;
            sites.push(Site::new(site, cluster.url("postgres", site)));
            let client = connect(&cluster.url("postgres", site)).await?;
            if site == "beijing" {
                chinook::load(&client).await?;
            } else {
                chinook::load_catalogue(&client).await?;
            }
            client.batch_execute(GUARD).await?;
            client
                .batch_execute(
                    "INSERT INTO residence SELECT customer_id, 'settled', 'beijing' FROM customer",
                )
                .await?;
        }
        Ok(Shop { cluster, sites })
    }

    /// A client that no guard stops.
    pub async fn mover(&self, site: &str) -> Result<Client> {
        let client = connect(&self.cluster.url("postgres", site)).await?;
        client
            .batch_execute("SET session_replication_role = replica")
            .await?;
        Ok(client)
    }

    /// Moves `user`, leaving his old copy at `from`; the fence lasts `fenced` at least.
    pub async fn move_user(&self, user: i32, from: &str, to: &str, fenced: Duration) -> Result<()> {
        let source = self.mover(from).await?;
        let target = self.mover(to).await?;
        source
            .batch_execute(&format!(
                "BEGIN; SELECT pg_advisory_xact_lock({user});
                 UPDATE residence SET state = 'fenced' WHERE customer_id = {user}; COMMIT"
            ))
            .await
            .context("cannot fence")?;
        tokio::time::sleep(fenced).await;
        target.batch_execute("BEGIN").await?;
        for (table, read) in READ {
            let rows: String = source.query_one(read, &[&user]).await?.get(0);
            let insert = format!(
                "INSERT INTO {table} SELECT * FROM json_populate_recordset(NULL::{table}, $1::text::json)"
            );
            target.execute(&insert, &[&rows]).await?;
        }
        let settle = "INSERT INTO residence VALUES ($1, 'settled', $2)";
        target.execute(settle, &[&user, &to]).await?;
        target.batch_execute("COMMIT").await?;
        let depart = "UPDATE residence SET state = 'departed', home = $2 WHERE customer_id = $1";
        source.execute(depart, &[&user, &to]).await?;
        Ok(())
    }
}

pub async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}
