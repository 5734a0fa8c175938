//! Functions and variables that clients ask a database about itself.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::var_provider::{VarProvider, VarType};
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};

use super::engine::{Protocol, Session};

/// What MySQL's drivers compare with; features are looked up by it.
pub const MYSQL_VERSION: &str = "8.4.2";
/// What PostgreSQL's drivers compare with.
pub const POSTGRES_VERSION: &str = "16.3";

/// Constants of one session. They are folded while planning, so that no region has to know them.
pub fn session_functions(session: &Session) -> Vec<Arc<ScalarUDF>> {
    let version = match session.protocol {
        Protocol::Postgres => {
            format!(
                "PostgreSQL {POSTGRES_VERSION} (GreptimeCluster {})",
                env!("CARGO_PKG_VERSION")
            )
        }
        _ => format!("{MYSQL_VERSION}-GreptimeCluster-{}", env!("CARGO_PKG_VERSION")),
    };
    let constant = |name: &str, value: String| {
        let value = ScalarValue::Utf8(Some(value));
        let body = Arc::new(move |_: &[ColumnarValue]| Ok(ColumnarValue::Scalar(value.clone())));
        Arc::new(create_udf(
            name,
            vec![],
            DataType::Utf8,
            Volatility::Immutable,
            body,
        ))
    };
    vec![
        constant("version", version),
        constant("database", session.database.clone()),
        constant("schema", session.database.clone()),
        constant("current_schema", session.database.clone()),
        constant("current_database", session.database.clone()),
        constant("user", session.user.clone()),
        constant("current_user", session.user.clone()),
        constant("session_user", session.user.clone()),
        constant("connection_id", "1".into()),
    ]
}

/// `@@name` of MySQL. Drivers read some at the start and act on them; what is not known is 0.
#[derive(Debug)]
pub struct Variables;

/// Values that drivers act on, by name.
pub const VARIABLES: [(&str, &str); 22] = [
    ("auto_increment_increment", "1"),
    ("autocommit", "1"),
    ("character_set_client", "utf8mb4"),
    ("character_set_connection", "utf8mb4"),
    ("character_set_results", "utf8mb4"),
    ("character_set_server", "utf8mb4"),
    ("collation_connection", "utf8mb4_bin"),
    ("collation_server", "utf8mb4_bin"),
    ("init_connect", ""),
    ("interactive_timeout", "31536000"),
    ("license", "Apache-2.0"),
    ("lower_case_table_names", "0"),
    ("max_allowed_packet", "16777216"),
    ("net_write_timeout", "60"),
    ("performance_schema", "0"),
    ("sql_mode", "STRICT_TRANS_TABLES"),
    ("system_time_zone", "UTC"),
    ("time_zone", "UTC"),
    ("transaction_isolation", "REPEATABLE-READ"),
    ("version", MYSQL_VERSION),
    ("version_comment", "GreptimeCluster"),
    ("wait_timeout", "31536000"),
];

impl Variables {
    pub fn install(state: &mut SessionState) {
        let properties = state.execution_props_mut();
        properties.add_var_provider(VarType::System, Arc::new(Self));
        properties.add_var_provider(VarType::UserDefined, Arc::new(Self));
    }

    /// The last part of `@@session.name`.
    fn value(names: &[String]) -> ScalarValue {
        let name = names
            .last()
            .map(|n| n.trim_start_matches('@').to_lowercase())
            .unwrap_or_default();
        let found = VARIABLES
            .iter()
            .find(|(known, _)| *known == name)
            .map_or("0", |(_, value)| *value);
        match found.parse::<i64>() {
            Ok(number) => ScalarValue::Int64(Some(number)),
            Err(_) => ScalarValue::Utf8(Some(found.to_string())),
        }
    }
}

impl VarProvider for Variables {
    fn get_value(&self, names: Vec<String>) -> Result<ScalarValue> {
        Ok(Self::value(&names))
    }

    fn get_type(&self, names: &[String]) -> Option<DataType> {
        Some(Self::value(names).data_type())
    }
}
