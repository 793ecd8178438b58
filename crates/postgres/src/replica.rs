//! The mover's role inside a transaction at the target: the application's triggers and the foreign keys' do not
//! fire on rows that it writes; foreign keys are checked set-wise at accept.

use tokio_postgres::GenericClient;

use crate::error::{Doing, Result};

/// Makes `tx` write as a replica until it ends.
pub async fn assume(tx: &impl GenericClient) -> Result<()> {
    let doing =
        "taking session_replication_role = replica (does `domicile check` name a missing right?)";
    // 15 and later grant the parameter; on 14 the installed function sets it for the mover.
    tx.batch_execute(
        "DO $$ BEGIN
             IF current_setting('server_version_num')::int >= 150000
                OR (SELECT rolsuper FROM pg_roles WHERE rolname = session_user) THEN
                 PERFORM set_config('session_replication_role', 'replica', true);
             ELSE
                 PERFORM domicile.as_replica();
             END IF;
         END $$",
    )
    .await
    .doing(doing)
}
