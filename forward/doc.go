// Package forward connects containers to services of the host, in the containers' own networks. It
// promises:
//
//   - A connection is only ever made to the address of a service, for a container whose token
//     names that service, while the token is valid and the container's process lives.
//   - When the token may no longer be used for the service, both ends of the connection are cut.
//   - Data arrives as it was sent, and is not inspected. Each end closes its own direction.
//   - A container that floods its listener, or does not read, takes descriptors and some memory,
//     within the limits of package networks. It never costs another container a connection.
//
// A connection shows no token, so the forwarder knows its container by the network. Containers that
// share a network share their services: a connection is made if one of them may use the service.
//
// The attacker runs in a container. The services are trusted with what containers send them, and
// users who may write the token file are trusted.
package forward
