// SPDX-License-Identifier: Apache-2.0

// where connect|accept ADDRESS PORT: makes a connection for each line of its input and
// keeps it, as the C programs of internal/specimen do.
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
)

var kept []net.Conn

func main() {
	address := net.JoinHostPort(os.Args[2], os.Args[3])
	var l net.Listener
	if os.Args[1] == "accept" {
		var err error
		l, err = net.Listen("tcp", address)
		check(err)
		fmt.Println("listening", l.Addr().(*net.TCPAddr).Port)
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if l != nil {
			takeOne(l)
		} else {
			dialOne(address)
		}
	}
}

func dialOne(address string) {
	c, err := net.Dial("tcp", address) // connects here
	check(err)
	keep(c)
}

func takeOne(l net.Listener) {
	c, err := l.Accept() // accepts here
	check(err)
	keep(c)
}

func keep(c net.Conn) {
	kept = append(kept, c)
	raw, err := c.(*net.TCPConn).SyscallConn()
	check(err)
	check(raw.Control(func(fd uintptr) { fmt.Println(c.LocalAddr().(*net.TCPAddr).Port, fd) }))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
