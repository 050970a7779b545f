//! Why an enrolment ends badly, and how its caller is told. Decides nothing.

use crate::agent::call::Ended;
use crate::message::{Failure, PodName};
use crate::plugin::code;
use crate::steering::BpfError;
use crate::steering::fault::Fault;
use crate::steering::pod::SteerError;
use crate::zds::HandError;

/// A step of an enrolment that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    #[error("its record cannot be written: {0}")]
    Record(#[from] std::io::Error),
    #[error("{0}: {1}")]
    Steer(&'static str, #[source] SteerError),
    #[error(transparent)]
    Hand(#[from] HandError),
    #[error("the connect hook: {0}")]
    Hook(#[from] BpfError),
    #[error("verification: {}", Fault::join(.0))]
    Unproven(Vec<Fault>),
    #[error(transparent)]
    Ended(#[from] Ended),
}

impl StepError {
    pub(super) fn at(step: &'static str) -> impl FnOnce(SteerError) -> Self {
        move |source| Self::Steer(step, source)
    }

    pub(super) fn failure(&self, pod: &PodName) -> Failure {
        let code = match self {
            Self::Hand(_) | Self::Ended(Ended::Late) => code::TRY_LATER,
            Self::Ended(Ended::Deleted) => code::UNKNOWN_CONTAINER,
            _ => code::NOT_CAPTURED,
        };
        let msg = match self {
            Self::Hand(HandError::NotConnected) => "ztunnel is not connected".to_owned(),
            _ => format!("pod {}/{} could not be captured", pod.namespace, pod.name),
        };
        Failure {
            code,
            msg,
            details: self.to_string(),
        }
    }
}

pub(super) fn busy(pod: &PodName, ended: Ended) -> Failure {
    let PodName {
        namespace, name, ..
    } = pod;
    match ended {
        Ended::Deleted => StepError::from(ended).failure(pod),
        Ended::Late => Failure {
            code: code::TRY_LATER,
            msg: format!("another call for pod {namespace}/{name} has not ended"),
            details: String::new(),
        },
    }
}

/// Two programs in one namespace would mix the identities of two pods.
pub(super) fn foreign(pod: &PodName, holder: &PodName) -> Failure {
    let PodName {
        namespace, name, ..
    } = holder;
    Failure {
        code: code::INVALID_ENV,
        msg: format!("this network namespace is that of pod {namespace}/{name}"),
        details: format!("it has uid {}, the call names uid {}", holder.uid, pod.uid),
    }
}

pub(super) fn unusable(error: &std::io::Error) -> Failure {
    Failure {
        code: code::IO,
        msg: "the pod's network namespace cannot be entered".into(),
        details: error.to_string(),
    }
}
