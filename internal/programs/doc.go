// SPDX-License-Identifier: Apache-2.0

// Package programs has only tests: they hold the built afterfin against programs
// that people run, in C, Go, Python and Node, and against redis and nginx. What these
// need from Debian and is missing, the tests fetch themselves (as root).
package programs
