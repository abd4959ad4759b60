// SPDX-License-Identifier: Apache-2.0

package programs

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"afterfin/internal/lab"
)

// held is one descriptor, as the program that holds it says.
type held struct {
	pid, fd        int
	local, verdict string
}

// program is a process, perhaps with children, that a test has started.
type program struct {
	*testing.T
	name string
	pid  int
	said *bufio.Scanner
}

func newNetNS(t *testing.T) *lab.NetNS {
	t.Helper()
	ns, err := lab.NewNetNS()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

// patience is how long a program may take for its whole life.
const patience = time.Minute

// start starts a program in the netns. It ends with its input, and its children do, at
// the test's end.
func start(t *testing.T, ns *lab.NetNS, path string, args ...string) *program {
	t.Helper()
	cmd := exec.Command(path, args...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(patience, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	t.Cleanup(func() {
		defer late.Stop()
		stdin.Close()
		io.Copy(io.Discard, stdout) // until all have ended
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v", cmd, err)
		}
	})
	return &program{t, filepath.Base(path), cmd.Process.Pid, bufio.NewScanner(stdout)}
}

// serve is start for a server that ends when it is told to. It is ready when one of
// the lines on stdout or stderr has this word in it.
func serve(t *testing.T, ns *lab.NetNS, ready string, path string, args ...string) {
	t.Helper()
	cmd := exec.Command(path, args...)
	cmd.Env = serverEnv
	// Should this process not come to its end: the kernel watches the thread that starts
	// the server, so that one stays.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = in, in
	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		ns.Do(func() error {
			err := cmd.Start()
			in.Close()
			started <- err
			if err == nil {
				cmd.Wait()
			}
			return nil
		})
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	t.Cleanup(func() {
		defer late.Stop()
		cmd.Process.Signal(syscall.SIGTERM) // nginx ends its workers then
		<-ended
		out.Close()
	})
	lines := bufio.NewScanner(out)
	var said []string
	for lines.Scan() {
		if said = append(said, lines.Text()); strings.Contains(lines.Text(), ready) {
			go io.Copy(io.Discard, out)
			return
		}
	}
	t.Fatalf("%v never got ready: %s", cmd, strings.Join(said, "\n"))
}

func (p *program) line() string {
	p.Helper()
	if !p.said.Scan() {
		p.Fatalf("%s[%d] has no more to say: %v", p.name, p.pid, p.said.Err())
	}
	return p.said.Text()
}

// holds waits until this many processes have said what they hold.
func (p *program) holds(processes int) (all []held) {
	p.Helper()
	for processes > 0 {
		line := p.line()
		if line == "done" {
			processes--
			continue
		}
		var h held
		if _, err := fmt.Sscan(line, &h.pid, &h.fd, &h.local, &h.verdict); err != nil {
			p.Fatalf("%s[%d] says %q: %v", p.name, p.pid, line, err)
		}
		all = append(all, h)
	}
	return all
}

// process is what /proc/PID/stat says.
type process struct {
	comm    string
	ppid    int
	startNS int64 // since boot
}

func processOf(t *testing.T, pid int) process {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), " (")
	end := strings.LastIndex(rest, ") ")
	fields := strings.Fields(rest[end+2:]) // from the third on
	ppid, err := strconv.Atoi(fields[4-3])
	if err != nil {
		t.Fatal(err)
	}
	ticks, err := strconv.ParseInt(fields[22-3], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return process{rest[:end], ppid, ticks * 10_000_000} // 100 ticks are a second
}
