// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func privateMounts() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
}

// running is a subject at work.
type running struct {
	subject *subject
	cmd     *exec.Cmd
	dir     string
	stdout  *os.File
	stderr  *notes
	ready   time.Duration // since its start
	ended   bool
}

// notes is a stderr that can be looked at.
type notes struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (n *notes) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.Write(p)
}

func (n *notes) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.String()
}

const patience = 30 * time.Second

// start runs a subject and returns when it traces.
func start(s *subject, dir string) (*running, error) {
	r := &running{subject: s, dir: dir, cmd: s.command(s.args, dir), stderr: &notes{}}
	r.cmd.Stderr = r.stderr
	if s.file {
		var err error
		if r.stdout, err = os.Create(filepath.Join(dir, "stdout")); err != nil {
			return nil, err
		}
		r.cmd.Stdout = r.stdout
	}
	begin := time.Now()
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	for !r.traces() {
		if time.Since(begin) > patience || processGone(r.pid()) {
			r.kill()
			return nil, fmt.Errorf("%s is not ready: %s", s.name, r.stderr)
		}
		time.Sleep(time.Millisecond) // nothing tells
	}
	r.ready = time.Since(begin)
	if s.ready == "" { // its last one may still be under way
		time.Sleep(500 * time.Millisecond)
	}
	return r, nil
}

func (r *running) pid() int { return r.cmd.Process.Pid }

// kill ends it if nothing else did.
func (r *running) kill() {
	if r.ended {
		return
	}
	r.ended = true
	_ = r.cmd.Process.Kill() // or it is gone
	_ = r.cmd.Wait()
}

func (r *running) traces() bool {
	if r.subject.ready != "" {
		return strings.Contains(r.stderr.String(), r.subject.ready)
	}
	return holds(r.pid(), "bpf_link", "perf_event")
}

// holds tells whether the process has a descriptor of one of these kinds.
func holds(pid int, kinds ...string) bool {
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, fd := range fds {
		to, _ := os.Readlink(fd)
		for _, kind := range kinds {
			if strings.Contains(to, kind) {
				return true
			}
		}
	}
	return false
}

func processGone(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(raw), ") Z ")
}

// processCPU is what a process has used so far, in ns, its threads that have ended included.
func processCPU(pid int) time.Duration {
	var t unix.Timespec
	const sched = 2 // CPUCLOCK_SCHED
	if unix.ClockGettime(int32(^pid<<3|sched), &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// memory is what is resident now, and what the maps take that it has open, in bytes. The kernel counts a ring
// twice in the first where the process has it mapped twice.
func memory(pid int) (resident, maps int64) {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	resident = field(status, "VmRSS:") << 10
	infos, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	seen := make(map[int64]bool)
	for _, file := range infos {
		raw, _ := os.ReadFile(file)
		if id := field(raw, "map_id:"); id != 0 && !seen[id] {
			seen[id] = true
			maps += field(raw, "memlock:")
		}
	}
	return resident, maps
}

// field is the number behind a name at the beginning of a line; 0 if there is none.
func field(text []byte, name string) int64 {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), name); ok {
			n, _ := strconv.ParseInt(strings.Fields(rest + " 0")[0], 10, 64)
			return n
		}
	}
	return 0
}

// stop ends a subject and gives what it used in all, its end included, and how often what it
// wrote has each of marks.
func (r *running) stop() (used time.Duration, written map[string]int, err error) {
	if err := r.cmd.Process.Signal(os.Interrupt); err != nil {
		return 0, nil, err
	}
	err = r.cmd.Wait()
	r.ended = true
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || r.subject.pkg == "") { // rivals end as they like
		return 0, nil, fmt.Errorf("%s: %w: %s", r.subject.name, err, r.stderr)
	}
	used = r.cmd.ProcessState.UserTime() + r.cmd.ProcessState.SystemTime()
	if r.subject.after != nil {
		reader := r.subject.command(r.subject.after, r.dir)
		if err := reader.Run(); err != nil {
			return 0, nil, fmt.Errorf("%v: %w", r.subject.after, err)
		}
		used += reader.ProcessState.UserTime() + reader.ProcessState.SystemTime()
	}
	if r.stdout == nil {
		return used, nil, nil
	}
	written, err = countMarks(r.stdout)
	return used, written, err
}

// marks are what is counted: lines, the rows among those of watch, and those of a TIME_WAIT's end.
var marks = []string{"\n", "→", "TIME_WAIT→"}

func countMarks(f *os.File) (map[string]int, error) {
	defer f.Close()
	if _, err := f.Seek(0, 0); err != nil {
		return nil, err
	}
	n := make(map[string]int)
	lines := bufio.NewReader(f)
	for {
		line, err := lines.ReadSlice('\n')
		for _, mark := range marks {
			n[mark] += bytes.Count(line, []byte(mark))
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil && err != bufio.ErrBufferFull {
			return nil, err
		}
	}
}
