// SPDX-License-Identifier: Apache-2.0

// Package recorder is the way from leaks, timewait and ports to a serve that runs beside them:
// what it remembers of the time before they were started. HTTP and JSON over a Unix socket that
// is root's alone, for all of it is about other people's processes.
package recorder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Socket is where a serve listens unless it is told otherwise.
const Socket = "/run/afterfin/recorder.sock"

// ErrNone: no serve listens there. ErrDenied: one may, but it is not ours to ask.
var (
	ErrNone   = errors.New("no flight recorder (afterfin serve) is running")
	ErrDenied = errors.New("the flight recorder answers root alone")
)

// Listen has the handler answer at path until end is called. The folder is made, for root
// alone, if it is not there; what a killed serve has left is taken over. stop is called if it cannot go on.
func Listen(path string, handler http.Handler, stop context.CancelCauseFunc) (end func(), err error) {
	fail := func(err error) (func(), error) {
		return nil, fmt.Errorf("listen for leaks, timewait and ports: %w", err)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return fail(fmt.Errorf("%s: %w", dir, err))
	}
	if st.Uid != uint32(os.Geteuid()) || st.Mode&0o022 != 0 {
		return fail(fmt.Errorf("%s must be of the user that runs serve, and nobody else may write there", dir))
	}
	if err := takeOver(path); err != nil {
		return fail(err)
	}
	l, err := listenPrivately(path)
	if err != nil {
		return fail(err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			stop(fmt.Errorf("answer leaks, timewait and ports: %w", err))
		}
	}()
	return func() {
		server.Close()
		l.Close() // removes the socket, also if Serve has not begun
	}, nil
}

// takeOver removes what a killed serve has left, and nothing else.
func takeOver(path string) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case st.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is there, and no socket", path)
	}
	c, err := net.Dial("unix", path)
	switch {
	case err == nil:
		c.Close()
		return fmt.Errorf("%s: another serve listens there", path)
	case !errors.Is(err, unix.ECONNREFUSED): // one that is busy, perhaps
		return err
	}
	return os.Remove(path)
}

// listenPrivately: others see the socket under its name when it has its mode, and not before.
func listenPrivately(path string) (net.Listener, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if err := unix.Fchmod(fd, 0o600); err != nil { // which bind() gives to the file
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := unix.Listen(fd, 16); err != nil {
		return nil, err
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(true)
	return l, nil
}

// patience is for how long an answer may take: serve looks around for some.
const patience = 30 * time.Second

// Ask fills into from what a serve tells. Errors are ErrNone, ErrDenied, and what else goes wrong.
func Ask(ctx context.Context, path, what string, query url.Values, into any) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, (&url.URL{Scheme: "http", Host: "afterfin", Path: what, RawQuery: query.Encode()}).String(), nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return ErrNone
	case errors.Is(err, fs.ErrPermission):
		return ErrDenied
	case err != nil:
		return fmt.Errorf("ask the flight recorder: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 1000))
		return fmt.Errorf("ask the flight recorder: %s: %s", answer.Status, text)
	}
	if err := json.NewDecoder(answer.Body).Decode(into); err != nil {
		return fmt.Errorf("ask the flight recorder: %w", err)
	}
	return nil
}
