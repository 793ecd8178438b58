CREATE TABLE customer (
    customer_id integer NOT NULL,
    email       text NOT NULL,
    name        text NOT NULL,
    country     text NOT NULL,
    phone       text,
    address     text,
    created_at  timestamptz NOT NULL
);
CREATE TABLE invoice (
    invoice_id   integer NOT NULL,
    customer_id  integer NOT NULL,
    invoice_date timestamptz NOT NULL,
    billing_city text,
    total        numeric(10,2) NOT NULL
);
CREATE TABLE invoice_line (
    invoice_line_id integer NOT NULL,
    invoice_id      integer NOT NULL,
    track_id        integer NOT NULL,
    unit_price      numeric(10,2) NOT NULL,
    quantity        integer NOT NULL
);
