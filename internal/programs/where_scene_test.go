// SPDX-License-Identifier: Apache-2.0

package programs

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"afterfin/internal/lab"
	"afterfin/internal/specimen"
)

// madeAt is one of the places where a program made the sockets that it leaks.
type madeAt struct {
	Count  int
	Call   string
	How    string
	Sure   bool
	Named  *int
	Frames []frame
}

type frame struct {
	Function, File, Module string
	Line                   int
}

// whereScene is a program that leaks when it is told to, and afterfin that watches it in
// both its outputs.
type whereScene struct {
	*testing.T
	ns         *lab.NetNS
	program    *specimen.Process
	call       string
	port       int // of the program, if it accepts
	json, text *follower
}

// newWhereScene starts all of it. The command is completed by what the program is to do,
// and by an address and a port.
func newWhereScene(t *testing.T, do string, flags []string, command ...string) *whereScene {
	t.Helper()
	t.Parallel()
	s := &whereScene{T: t, ns: newNetNS(t), call: do}
	port := "0"
	if do != "accept" {
		s.call, port = "connect", hangUp(t, s.ns)
	}
	err := s.ns.Do(func() (err error) {
		s.program, err = specimen.Start(command[0], append(command[1:], do, "127.0.0.1", port)...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.program.Close(); err != nil {
			t.Errorf("%v ends with %v", command, err)
		}
		os.Remove(fmt.Sprintf("/tmp/perf-%d.map", s.program.PID())) // those who write one leave it there
	})
	if do == "accept" {
		if s.port, err = s.program.Listening(); err != nil {
			t.Fatal(err)
		}
	}
	s.json, s.text = follow(t, s.ns, "json", flags), follow(t, s.ns, "text", flags)
	return s
}

// hangUp is a server that closes at once.
func hangUp(t *testing.T, ns *lab.NetNS) (port string) {
	l := listenIn(t, ns)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	return fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
}

// leak has the program make a connection that is closed by its peer only.
func (s *whereScene) leak() {
	s.Helper()
	if s.call == "accept" {
		var c net.Conn
		err := s.ns.Do(func() (err error) { c, err = net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", s.port)); return err })
		if err != nil {
			s.Fatal(err)
		}
		defer c.Close()
	}
	if _, _, err := s.program.Open(); err != nil {
		s.Fatal(err)
	}
}

// leakDeep has one leak found, and makes more once the program is looked at closely.
func (s *whereScene) leakDeep() *madeAt {
	s.Helper()
	s.leak()
	s.json.said(" armed")
	s.text.said(" armed")
	s.leak()
	s.leak()
	return s.place(func(at *madeAt) bool { return at.How == "unwinding" && at.Count >= 2 })
}

// place waits for a report that names one, and gives that.
func (s *whereScene) place(ok func(*madeAt) bool) (at *madeAt) {
	s.Helper()
	s.json.until(func(report string) bool {
		var doc struct {
			Leaks []struct {
				PID   int
				Sites []madeAt
			}
		}
		if err := json.Unmarshal([]byte(report), &doc); err != nil {
			s.Fatalf("%v: %s", err, report)
		}
		for _, l := range doc.Leaks {
			if i := slices.IndexFunc(l.Sites, func(at madeAt) bool { return ok(&at) }); l.PID == s.program.PID() && i >= 0 {
				at = &l.Sites[i]
				return true
			}
		}
		return false
	})
	return at
}

// textHas waits for a report that has all of these in a line.
func (s *whereScene) textHas(words ...string) {
	s.Helper()
	s.text.until(func(report string) bool {
		for line := range strings.Lines(report) {
			if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(line, word) }) {
				return true
			}
		}
		return false
	})
}

// follower is leaks --follow.
type follower struct {
	*testing.T
	reports chan string // the last one that nobody has taken
	seen    string
	stderr  *bufio.Scanner
}

func follow(t *testing.T, ns *lab.NetNS, output string, flags []string) *follower {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	args := []string{"leaks", "--follow", "-o", output, "--every", "200ms", "--older-than", "0s", "--netns", ns.Path()}
	cmd := exec.CommandContext(ctx, filepath.Join(built, "afterfin"), append(args, flags...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	stdout, outErr := cmd.StdoutPipe()
	stderr, errErr := cmd.StderrPipe()
	if outErr != nil || errErr != nil {
		t.Fatal(outErr, errErr)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f := &follower{T: t, reports: make(chan string, 1), stderr: bufio.NewScanner(stderr)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.read(stdout)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		io.Copy(io.Discard, stderr)
		cmd.Wait()
	})
	f.said("ready in ")
	return f
}

// read takes all reports, so that afterfin never waits for us.
func (f *follower) read(stdout io.Reader) {
	defer close(f.reports)
	var report strings.Builder
	for lines := bufio.NewReader(stdout); ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		report.WriteString(line)
		if !strings.HasPrefix(line, "{") && !strings.HasPrefix(line, "1 netns ") { // the last line of a text
			continue
		}
		select {
		case <-f.reports:
		default:
		}
		f.reports <- report.String()
		report.Reset()
	}
}

// until waits for a report that satisfies ok.
func (f *follower) until(ok func(report string) bool) {
	f.Helper()
	for report := range f.reports {
		if f.seen = report; ok(report) {
			return
		}
	}
	f.Fatalf("no such report; the last:\n%s", f.seen)
}

// said waits until stderr has said this.
func (f *follower) said(what string) {
	f.Helper()
	for f.stderr.Scan() {
		if strings.Contains(f.stderr.Text(), what) {
			return
		}
	}
	f.Fatalf("it never says %q; the last report:\n%s", what, f.seen)
}
