// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"slices"
	"strings"

	"github.com/prometheus/procfs"
)

// scopes are what runtimes put before the id of a container. What they run beside
// it (crio-conmon-ID, libpod-conmon-ID) has more between and does not match.
var scopes = []struct{ prefix, runtime string }{
	{"docker-", "docker"},
	{"cri-containerd-", "containerd"},
	{"nerdctl-", "containerd"},
	{"crio-", "cri-o"},
	{"libpod-", "podman"},
	{payload, "podman"},
}

// payload is what podman uses inside the cgroup of a unit that it shares.
const payload = "libpod-payload-"

// parents are the folders of containers whose own folder is just the id.
var parents = map[string]string{"docker": "docker", "libpod_parent": "podman"}

// membership tells the unit and the container from the cgroups of a process. All
// hierarchies of cgroup v1 are looked at: a container may be in some of them only.
func membership(groups []procfs.Cgroup) (unit string, container Container) {
	for _, g := range groups {
		if unit, container = parsePath(g.Path); container.ID != "" {
			return unit, container
		}
	}
	for _, g := range groups {
		// Only systemd's own hierarchy and that of cgroup v2 have its units for sure.
		if g.HierarchyID == 0 || slices.Contains(g.Controllers, "name=systemd") {
			if unit, _ = parsePath(g.Path); unit != "" {
				return unit, Container{}
			}
		}
	}
	return "", Container{}
}

// parsePath takes the innermost container and the innermost unit inside it. What
// is around a container is no unit of its processes, but the runtime's own; only
// podman makes containers as part of a unit.
func parsePath(path string) (unit string, container Container) {
	segments := strings.Split(path, "/")
	for i, segment := range slices.Backward(segments) {
		parent := ""
		if i > 0 {
			parent = segments[i-1]
		}
		if c, ok := parseContainer(segment, parent); ok && container.ID == "" {
			container = c
			if unit != "" || !strings.HasPrefix(segment, payload) {
				return unit, container
			}
		} else if unit == "" && isUnit(segment) {
			unit = strings.TrimPrefix(segment, "_") // systemd's escape, see cg_escape
			if container.ID != "" {
				return unit, container
			}
		}
	}
	return unit, container
}

// isUnit tells the name of a unit that has processes. Such names consist of
// letters, digits and these signs, all else is escaped as \x2d (systemd.unit(5)).
func isUnit(segment string) bool {
	name, service := strings.CutSuffix(segment, ".service")
	name, scope := strings.CutSuffix(name, ".scope")
	if service == scope || name == "" || len(segment) > 255 {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
			return false
		}
		return !strings.ContainsRune(`:-_.\@`, r)
	})
}

// parseContainer reads one part of a path: docker-ID.scope, crio-ID, the bare ID;
// also SLICE:PREFIX:ID, which runc makes of systemd's names without systemd.
func parseContainer(segment, parent string) (Container, bool) {
	name := strings.TrimSuffix(segment, ".scope")
	if fields := strings.Split(name, ":"); len(fields) == 3 {
		name = fields[1] + "-" + fields[2]
	}
	if isID(name) {
		return Container{Runtime: parents[parent], ID: name}, true
	}
	for _, s := range scopes {
		if id, ok := strings.CutPrefix(name, s.prefix); ok && isID(id) {
			return Container{Runtime: s.runtime, ID: id}, true
		}
	}
	return Container{}, false
}

// isID tells the id of a container, which may then be part of a path.
func isID(text string) bool {
	if len(text) != 64 {
		return false
	}
	return !strings.ContainsFunc(text, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'f')
	})
}
