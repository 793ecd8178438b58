ALTER TABLE customer ADD PRIMARY KEY (customer_id), ADD UNIQUE (email);
ALTER TABLE invoice ADD PRIMARY KEY (invoice_id);
ALTER TABLE invoice_line ADD PRIMARY KEY (invoice_line_id);
CREATE INDEX ON customer (country);
CREATE INDEX ON invoice (customer_id);
CREATE INDEX ON invoice_line (invoice_id);
ALTER TABLE invoice ADD FOREIGN KEY (customer_id) REFERENCES customer;
ALTER TABLE invoice_line ADD FOREIGN KEY (invoice_id) REFERENCES invoice;
