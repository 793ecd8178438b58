//! What arrives is what left: values of every type, by the copy and by the stream, between databases whose settings
//! and collations differ; and damage of every kind at the target is noticed by the digests.

mod damage;
mod kept;
mod kinds;
mod types;
mod values;
mod world;
