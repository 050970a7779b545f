//! HTTP in a stream: requests, routes, answers. Knows no tunnel and no socket.
