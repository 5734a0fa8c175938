//! Databases and tables by name, as one statement sees them.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::error::{DataFusionError, Result};
use greptime_query::into_datafusion;

use super::engine::{Engine, Session};
use super::information_schema;
use super::provider::RegionTable;
use crate::route::{Catalog, Deadline};
use crate::sql::CATALOG;

/// Databases that have no tables of their own.
pub const VIRTUAL_DATABASES: [&str; 1] = ["information_schema"];

#[derive(Clone)]
pub struct Databases {
    inner: Arc<Inner>,
}

struct Inner {
    catalog: Arc<Catalog>,
    engine: Arc<Engine>,
    session: Session,
    deadline: Deadline,
}

impl Databases {
    pub fn new(catalog: Arc<Catalog>, engine: Arc<Engine>, session: Session, deadline: Deadline) -> Self {
        Self {
            inner: Arc::new(Inner {
                catalog,
                engine,
                session,
                deadline,
            }),
        }
    }
}

impl std::fmt::Debug for Databases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Databases(revision {})", self.inner.catalog.revision)
    }
}

impl CatalogProviderList for Databases {
    fn register_catalog(&self, _: String, _: Arc<dyn CatalogProvider>) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        vec![CATALOG.to_string()]
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        (name == CATALOG).then(|| Arc::new(self.clone()) as Arc<dyn CatalogProvider>)
    }
}

impl CatalogProvider for Databases {
    fn schema_names(&self) -> Vec<String> {
        let own = self.inner.catalog.databases().map(|d| d.name.clone());
        own.chain(VIRTUAL_DATABASES.map(str::to_string)).collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let known = VIRTUAL_DATABASES.contains(&name) || self.inner.catalog.database(name).is_some();
        known.then(|| {
            Arc::new(Tables {
                of: self.clone(),
                database: name.to_string(),
            }) as Arc<dyn SchemaProvider>
        })
    }
}

#[derive(Debug)]
struct Tables {
    of: Databases,
    database: String,
}

#[async_trait]
impl SchemaProvider for Tables {
    fn table_names(&self) -> Vec<String> {
        if VIRTUAL_DATABASES.contains(&self.database.as_str()) {
            return information_schema::TABLES.map(str::to_string).to_vec();
        }
        self.of
            .inner
            .catalog
            .tables_of(&self.database)
            .map(|t| t.name.clone())
            .collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        let Inner {
            catalog,
            engine,
            session,
            deadline,
        } = self.of.inner.as_ref();
        if VIRTUAL_DATABASES.contains(&self.database.as_str()) {
            return information_schema::table(name, engine, session, *deadline)
                .await
                .map_err(into_datafusion);
        }
        if let Some(table) = catalog.table(&self.database, name) {
            let provider = RegionTable::new(Arc::clone(table), Arc::clone(&engine.router));
            return Ok(Some(Arc::new(provider)));
        }
        let metric = engine
            .metrics
            .table(engine, catalog, &self.database, name, *deadline);
        metric.await.map_err(into_datafusion)
    }

    fn table_exist(&self, name: &str) -> bool {
        self.table_names().iter().any(|n| n == name)
    }
}
