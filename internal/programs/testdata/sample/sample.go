// SPDX-License-Identifier: Apache-2.0

// Package sample has a client that forgets to close.
package sample

import "net"

// Client keeps its connections.
type Client struct{ kept []net.Conn }

// Fetch reads until the server closes, and does not close itself.
func (c *Client) Fetch(address string) error {
	conn, err := net.Dial("tcp", address) // leaks here
	if err != nil {
		return err
	}
	c.kept = append(c.kept, conn)
	conn.Read(make([]byte, 1))
	return nil
}
