//! Our errors inside DataFusion's, and what DataFusion's own mean.

use datafusion::arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use greptime_types::{Error, ErrorKind};

/// Carries an error of ours through DataFusion; [`from_datafusion`] finds it again.
pub fn into_datafusion(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// The kind of a failed query. What DataFusion finds while it plans is the user's doing (an unknown column, a
/// wrong type); what it meets later is only where the data can be at fault.
pub fn from_datafusion(error: &DataFusionError) -> Error {
    if let Some(ours) = find_ours(error) {
        return ours;
    }
    let kind = kind_of(error);
    Error::new(kind, error.find_root().message())
}

fn find_ours(error: &DataFusionError) -> Option<Error> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = next {
        if let Some(ours) = current.downcast_ref::<Error>() {
            return Some(ours.clone());
        }
        // Boxed and shared errors do not show what they hold through `source`.
        next = match current.downcast_ref::<DataFusionError>() {
            Some(DataFusionError::External(inner)) => Some(inner.as_ref()),
            Some(DataFusionError::Shared(inner)) => Some(inner.as_ref()),
            Some(DataFusionError::ArrowError(inner, _)) => Some(inner.as_ref()),
            Some(DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner)) => {
                Some(inner.as_ref())
            }
            _ => match current.downcast_ref::<ArrowError>() {
                Some(ArrowError::ExternalError(inner)) => Some(inner.as_ref()),
                _ => current.source(),
            },
        };
    }
    None
}

fn kind_of(error: &DataFusionError) -> ErrorKind {
    match error.find_root() {
        DataFusionError::SQL(..) | DataFusionError::Plan(_) | DataFusionError::Configuration(_) => {
            ErrorKind::InvalidArgument
        }
        DataFusionError::SchemaError(..) => ErrorKind::InvalidArgument,
        DataFusionError::NotImplemented(_) => ErrorKind::Unsupported,
        DataFusionError::ResourcesExhausted(_) => ErrorKind::ResourceExhausted,
        DataFusionError::ArrowError(arrow, _) => match arrow.as_ref() {
            ArrowError::CastError(_)
            | ArrowError::ParseError(_)
            | ArrowError::DivideByZero
            | ArrowError::ArithmeticOverflow(_)
            | ArrowError::InvalidArgumentError(_)
            | ArrowError::ComputeError(_) => ErrorKind::InvalidArgument,
            ArrowError::NotYetImplemented(_) => ErrorKind::Unsupported,
            _ => ErrorKind::Internal,
        },
        DataFusionError::Execution(_) => ErrorKind::InvalidArgument,
        DataFusionError::Collection(errors) => errors.first().map_or(ErrorKind::Internal, kind_of),
        _ => ErrorKind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_error_comes_back_from_any_depth() {
        let ours = Error::unavailable("region 7:0 has no leader");
        let wrapped = into_datafusion(ours.clone()).context("executing a scan");
        assert_eq!(from_datafusion(&wrapped), ours);
        let arrow = ArrowError::ExternalError(Box::new(into_datafusion(ours.clone())));
        let shared = DataFusionError::Shared(std::sync::Arc::new(arrow.into()));
        assert_eq!(from_datafusion(&shared), ours);
    }

    #[test]
    fn a_query_over_budget_is_exhausted() {
        let error = DataFusionError::ResourcesExhausted("memory".into());
        assert_eq!(from_datafusion(&error).kind, ErrorKind::ResourceExhausted);
    }
}
