// SPDX-License-Identifier: Apache-2.0

package sample

import (
	"net"
	"testing"
	"time"
)

// The test passes: that it leaks is for others to see.
func TestFetch(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			c.Close()
		}
	}()
	var client Client
	if err := client.Fetch(l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(600 * time.Millisecond) // as a test with more to do: it outlives the limit
}
