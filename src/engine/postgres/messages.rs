//! Turns failures of the client library and of servers into text.

/// The text of a failed statement or connection: the server's message and hint, or the error with its causes.
pub(crate) fn explain(error: &postgres::Error) -> String {
    if let Some(answer) = error.as_db_error() {
        let hint = answer.hint().map_or_else(String::new, |hint| format!(" ({hint})"));
        return format!("{}{hint}", answer.message());
    }
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}
