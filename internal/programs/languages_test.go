// SPDX-License-Identifier: Apache-2.0

package programs

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"afterfin/internal/lab"
)

// listenIn gives a listener in the netns, on all its addresses.
func listenIn(t *testing.T, ns *lab.NetNS) *net.TCPListener {
	t.Helper()
	var l *net.TCPListener
	err := ns.Do(func() (err error) { l, err = net.ListenTCP("tcp4", &net.TCPAddr{}); return err })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// closer is a server that closes first, always: it does what the first byte says.
func closer(t *testing.T, ns *lab.NetNS) (port string) {
	t.Helper()
	l := listenIn(t, ns)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go answer(t, c)
		}
	}()
	return strconv.Itoa(int(l.Addr().(*net.TCPAddr).AddrPort().Port()))
}

func answer(t *testing.T, c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(c)
	first, err := in.ReadByte()
	if err != nil {
		t.Error(err)
		return
	}
	switch first {
	case 'e':
	case 'd':
		_, err = c.Write(make([]byte, 100))
	case 'G':
		in.UnreadByte()
		err = respond(c, in)
	}
	if err != nil {
		t.Error(err)
	}
}

// respond is an HTTP server that closes when the client says a byte more, which is
// when it has read.
func respond(c net.Conn, in *bufio.Reader) error {
	request, err := http.ReadRequest(in)
	if err != nil {
		return err
	}
	size := map[string]int{"/small": 10, "/large": 50_000}[request.URL.Path]
	if _, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", size, strings.Repeat("x", size)); err != nil {
		return err
	}
	_, err = in.ReadByte()
	return err
}

// Programs that do not close what the server has closed: who, which descriptors,
// and why.
func TestLanguages(t *testing.T) {
	for _, c := range []struct {
		name      string
		command   []string
		processes int
	}{
		{"c", []string{filepath.Join(built, "leaky-c")}, 2},
		{"go", []string{filepath.Join(built, "leaky-go")}, 1},
		{"python", []string{installed["python3"], "testdata/leaky.py"}, 1},
		{"node", []string{installed["node"], "testdata/leaky.js"}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ns := newNetNS(t)
			port := closer(t, ns)
			p := start(t, ns, c.command[0], append(c.command[1:], port)...)
			e := expect{remote: "127.0.0.1:" + port, recvQ: unread}
			if c.name == "go" { // how much of a large body the library reads is its own affair
				e.recvQ = map[string]uint32{"eof_unread": 1}
			}
			e.check(t, ns, p.holds(c.processes))
		})
	}
}

// The parent accepts, forks and closes. The child is named, and that it has the
// connection from its parent.
func TestForkingServer(t *testing.T) {
	t.Parallel()
	ns := newNetNS(t)
	server := start(t, ns, installed["python3"], "testdata/forking.py")
	at := netip.MustParseAddrPort("127.0.0.1:" + server.line())
	var c *net.TCPConn
	err := ns.Do(func() (err error) { c, err = net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(at)); return err })
	if err != nil {
		t.Fatal(err)
	}
	remote := c.LocalAddr().String()
	c.Close()
	all := server.holds(1)
	if p := processOf(t, all[0].pid); p.ppid != server.pid {
		t.Fatalf("%+v is no child of %d", p, server.pid)
	}
	expect{remote: remote, side: "accept", inherited: true, recvQ: unread}.check(t, ns, all)
	text, _ := leaks(t, ns)
	if parent := fmt.Sprintf("pid %d", server.pid); !strings.Contains(string(text), parent) {
		t.Errorf("the parent, %s, is not named:\n%s", parent, text)
	}
}
