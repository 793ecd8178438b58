// Express with node-postgres: `app.use(guard)` after all routes. Each request has its client in `req.db`, within BEGIN.

/** The site that this process runs at. */
const SITE = process.env.SITE;

const CLOSED = new Set(["fenced", "offered", "departed", "arriving", "clearing"]);

/** The nonce of the guard's refusal, if `error` is one. */
function nonceOf(error) {
  if (error.code !== "DM421" && error.code !== "40001") return undefined;
  try {
    return JSON.parse(error.detail ?? "null")?.nonce;
  } catch {
    return undefined;
  }
}

/** After a foreign key refused a row: the nonce, if the user does not live here. */
async function nonceOfHome(db, user) {
  const { rows } = await db.query("SELECT domicile.where_is($1) AS place", [user]);
  const { place } = rows[0];
  return place.home !== SITE || CLOSED.has(place.state) ? place.nonce : undefined;
}

export async function guard(error, req, res, next) {
  try {
    // Before anything is said.
    await req.db?.query("ROLLBACK");
    let nonce = nonceOf(error);
    if (nonce === undefined && error.code === "23503" && req.db) {
      nonce = await nonceOfHome(req.db, req.user);
    }
    if (nonce === undefined) return next(error);
    res.status(421).set("domicile-refused", nonce).end();
  } catch (failure) {
    next(failure);
  }
}
