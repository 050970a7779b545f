//! One access log line (protocol.md 9). Knows only records.

use super::{ConnectionRecord, Phase, Record, RequestRecord};

/// Says a record, if it is one that is said.
pub(super) fn log(record: &Record) {
    match record {
        Record::Connection(record) => connection(record),
        Record::Request(record) => request(record),
    }
}

fn connection(record: &ConnectionRecord) {
    macro_rules! line {
        ($level:ident, $message:literal $(, $extra:ident = $value:expr)*) => {{
            let d = &record.details;
            let (s, t) = (d.source.workload.as_deref(), d.destination.workload.as_deref());
            tracing::$level!(target: "access", {
                src.addr = %record.source_address,
                src.workload = s.map(|w| &*w.name),
                src.namespace = s.map(|w| &*w.namespace),
                src.identity = d.source.identity.as_ref().map(|i| i.to_string()),
                dst.addr = d.actual.map(|address| address.to_string()),
                dst.hbone_addr = &*record.authority,
                dst.service = d.service.as_ref().map(|key| &*key.hostname),
                dst.workload = t.map(|w| &*w.name),
                dst.namespace = t.map(|w| &*w.namespace),
                dst.identity = d.destination.identity.as_ref().map(|i| i.to_string()),
                route = d.route.as_ref().map(|(key, rule)| format!("{key} rule {rule}")),
                server_name = d.server_name.as_deref(),
                audit = record.audits.as_deref(),
                direction = "waypoint",
                $($extra = $value,)*
            }, $message)
        }};
    }
    let (sent, received) = (record.sent_bytes, record.received_bytes);
    let duration = format!("{}ms", record.duration.as_millis());
    match (&record.outcome, record.phase) {
        (_, Phase::Moved) => {}
        (_, Phase::Opened) => line!(debug, "connection opened"),
        (Ok(()), _) => line!(
            info,
            "connection complete",
            bytes_sent = sent,
            bytes_recv = received,
            duration = duration
        ),
        (Err((_, error)), _) => line!(
            error,
            "connection failed",
            bytes_sent = sent,
            bytes_recv = received,
            duration = duration,
            error = error
        ),
    }
}

fn request(record: &RequestRecord) {
    let Some(said) = &record.said else { return };
    macro_rules! line {
        ($level:ident, $message:literal) => {{
            let (s, t) = (&record.source, &record.destination);
            let (w, e) = (s.workload.as_deref(), t.workload.as_deref());
            tracing::$level!(target: "access", {
                src.addr = %said.client,
                src.workload = w.map(|w| &*w.name),
                src.namespace = w.map(|w| &*w.namespace),
                src.identity = s.identity.as_ref().map(|i| i.to_string()),
                method = said.method,
                authority = said.authority,
                path = said.target,
                version = said.version,
                status = record.status,
                grpc_status = record.grpc_status,
                dst.service = record.service.as_ref().map(|key| &*key.hostname),
                dst.addr = said.endpoint.map(|address| address.to_string()),
                dst.workload = e.map(|w| &*w.name),
                dst.namespace = e.map(|w| &*w.namespace),
                dst.identity = t.identity.as_ref().map(|i| i.to_string()),
                route = said.route.as_ref().map(|(key, rule)| format!("{key} rule {rule}")),
                attempts = said.tries,
                audit = record.audits.as_deref(),
                request_id = said.request_id,
                bytes_recv = record.bytes.0,
                bytes_sent = record.bytes.1,
                duration = format!("{}ms", record.duration.as_millis()),
                error = record.reason.map(|reason| reason.as_str()),
                direction = "waypoint",
            }, $message)
        }};
    }
    match record.reason {
        None => line!(info, "request complete"),
        Some(_) if record.status.is_some_and(|status| status < 400) => {
            line!(info, "request complete");
        }
        Some(_) => line!(error, "request failed"),
    }
}
