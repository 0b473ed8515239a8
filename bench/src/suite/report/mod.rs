//! What a run found, drawn: a page with plots and tables that stands by itself, and the tables of
//! the documentation.

pub mod facet;
pub mod markdown;
mod page;
pub mod plot;

pub use page::page;
