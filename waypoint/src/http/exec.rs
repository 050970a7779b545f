//! hyper's tasks, started by the site.

use std::future::Future;
use std::rc::Rc;

use super::site::Site;

/// Starts what hyper wants to run beside a connection.
#[derive(Clone)]
pub(super) struct Exec(Rc<dyn Site>);

impl Exec {
    pub(super) fn new(site: &Rc<dyn Site>) -> Self {
        Self(site.clone())
    }
}

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Exec {
    fn execute(&self, task: F) {
        self.0.spawn(Box::pin(task));
    }
}
