#!/usr/bin/env bash
# Runs programs as they are, with the library and without, and compares what they say.
#   crates/kmalloc-preload/programs.sh [--quick] [--check] [--time [--rounds N] [--against]] [--against NAME=LIBRARY]...
#                                      [--only NAME] [LIBRARY]
# --quick: a second or two each. --check: with KMALLOC_CHECK=1. --time: CPU time and peak memory over those without: medians of
# N rounds (5), in turn, with the spread of the CPU time, and geometric means over all programs. --against: beside the
# allocators that Debian has as packages (libjemalloc2, libmimalloc2.0, libtcmalloc-minimal4), as far as they are installed, and
# over the best of them. --against NAME=LIBRARY: beside that library. --only: this program alone.
# Exit status: 0 all the same, 1 one differed, 2 an argument is wrong. Programs that are not installed are named and skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."

scale=1
times=""
library=""
checks=()
others=()
only=""
rounds=5
# The libraries of Debian's packages.
packaged() {
    local folder entry
    for entry in jemalloc=libjemalloc.so.2 mimalloc=libmimalloc.so.2 tcmalloc=libtcmalloc_minimal.so.4; do
        for folder in /usr/lib/*-linux-gnu /usr/lib /usr/lib64; do
            if [ -f "$folder/${entry#*=}" ]; then
                others+=("${entry%%=*}=$folder/${entry#*=}")
                break
            fi
        done
    done
    [ ${#others[@]} -gt 0 ] || { echo "programs.sh --against: none of libjemalloc2, libmimalloc2.0, libtcmalloc-minimal4 is installed" >&2; exit 2; }
}
while [ $# -gt 0 ]; do
    case $1 in
    --quick) scale=10 ;;
    --check) checks=(KMALLOC_CHECK=1) ;;
    --time) times=yes ;;
    --against | --only | --rounds)
        # Without NAME=LIBRARY, `--against` means the packages.
        if [ "$1" = --against ] && { [ $# -eq 1 ] || [[ $2 != *=* ]]; }; then
            packaged
            shift
            continue
        fi
        [ $# -gt 1 ] || { echo "programs.sh: $1 needs a value" >&2; exit 2; }
        if [ "$1" = --only ]; then
            only=$2
        elif [ "$1" = --rounds ]; then
            rounds=$2
            [[ $rounds =~ ^[1-9][0-9]*$ ]] || { echo "programs.sh --rounds $rounds: not a number of rounds" >&2; exit 2; }
        elif [ -f "${2#*=}" ] && [ "${2#*=}" != "$2" ]; then
            others+=("$2")
        else
            echo "programs.sh: $1 $2: not NAME=LIBRARY, or the library is missing" >&2
            exit 2
        fi
        shift
        ;;
    -*) echo "programs.sh [--quick] [--check] [--time [--rounds N] [--against]] [--against NAME=LIBRARY] [--only NAME] [LIBRARY]: what is $1?" >&2; exit 2 ;;
    *) library=$1 ;;
    esac
    shift
done
library=${library:-${CARGO_TARGET_DIR:-target}/preload/libkmalloc_preload.so}
[ -f "$library" ] || { echo "$library is missing: cargo build --profile preload -p kmalloc-preload" >&2; exit 2; }
library=$(realpath "$library")
if [ -n "$times" ] && ! command -v cc >/dev/null; then
    echo "programs.sh --time needs a C compiler" >&2
    exit 2
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=0
ran=0
skipped=()

# Runs the script on its standard input with each allocator, in fresh folders: program, what it needs.
compare() {
    local name=$1 status here who entry
    shift
    [ -z "$only" ] || [ "$only" = "$name" ] || { cat >/dev/null; return; }
    for needed in "$@"; do
        if ! command -v "$needed" >/dev/null; then
            skipped+=("$name")
            cat >/dev/null
            return
        fi
    done
    cat >"$scratch/script"
    rm -f "$scratch"/*.time
    local round most=1
    [ -z "$times" ] || most=$rounds
    for round in $(seq "$most"); do
        for entry in without= "with=$library" "${others[@]}"; do
            who=${entry%%=*}
            here=$scratch/$name-$who
            mkdir -p "$here"
            local words=(SCALE="$scale" LC_ALL=C)
            [ "$who" = without ] || words+=(LD_PRELOAD="${entry#*=}")
            [ "$who" != with ] || words+=("${checks[@]}")
            status=0
            (cd "$here" && measured "$scratch/$who.time" env "${words[@]}" bash "$scratch/script" \
                >"$scratch/$who.out" 2>"$scratch/$who.err") || status=$?
            echo "status $status" >>"$scratch/$who.out"
            rm -rf "$here"
        done
        cmp -s "$scratch/without.out" "$scratch/with.out" || break
    done
    ran=$((ran + 1))
    if ! cmp -s "$scratch/without.out" "$scratch/with.out"; then
        failed=1
        echo "$name: differs"
        diff "$scratch/without.out" "$scratch/with.out" | head -5 || true
        head -5 "$scratch/with.err"
    elif [ -n "$times" ]; then
        printf '%-10s' "$name"
        : >"$scratch/figures"
        for entry in without= with= "${others[@]}"; do
            who=${entry%%=*}
            # Medians of CPU seconds and peak kilobytes, and the spread of the first.
            printf '%s %s %s %s %s\n' "$who" "$(cut -f1 "$scratch/$who.time" | sort -n | middle)" \
                "$(cut -f2 "$scratch/$who.time" | sort -n | middle)" \
                "$(cut -f1 "$scratch/$who.time" | sort -n | head -1)" \
                "$(cut -f1 "$scratch/$who.time" | sort -n | tail -1)" >>"$scratch/figures"
        done
        awk -v to="$scratch/ratios" '
            { cpu[$1] = $2; peak[$1] = $3; low[$1] = $4; high[$1] = $5; order[NR] = $1 }
            END {
                for (i = 2; i <= NR; i++) {
                    who = order[i]
                    over = cpu["without"] > 0 ? cpu[who] / cpu["without"] : 1
                    printf "  %s: CPU %5.2f s (%.2f to %.2f), %.2f; peak %6d KB, %.2f", \
                        who, cpu[who], low[who], high[who], over, peak[who], peak[who] / peak["without"]
                    print who, over, peak[who] / peak["without"] >>to
                    if (who != "with" && (best == "" || cpu[who] < cpu[best])) best = who
                }
                if (best != "") {
                    over = cpu[best] > 0 ? cpu["with"] / cpu[best] : 1
                    printf "  over the best, %s: %.2f", best, over
                    print "with-over-the-best", over, peak["with"] / peak[best] >>to
                }
                print ""
            }' "$scratch/figures"
    else
        echo "$name: the same"
    fi
}

# Prints the middle line of its input.
middle() {
    awk '{ line[NR] = $0 } END { print line[int((NR + 1) / 2)] }'
}

# Prints the geometric means of what was measured.
means() {
    awk '{ count[$1]++; cpu[$1] += log($2); peak[$1] += log($3) } END { for (who in count)
        printf "geometric mean over %d programs, %s: CPU %.3f, peak %.3f\n", count[who],
            who == "with-over-the-best" ? "ours over the best other library in CPU time" : who " over the C library",
            exp(cpu[who] / count[who]), exp(peak[who] / count[who]) }' "$scratch/ratios"
}

# Runs a command and writes its CPU seconds and peak kilobytes to a file. By a program of its own, as small as can be: a process that
# is started has the peak of the one that starts it.
measured() {
    local to=$1
    shift
    if [ -z "$times" ]; then
        "$@"
        return
    fi
    if [ ! -x "$scratch/measure" ]; then
        cc -O1 -static -o "$scratch/measure" -x c - <<'PROGRAM'
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int count, char **words) {
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        execvp(words[2], words + 2);
        _exit(127);
    }
    waitpid(child, &status, 0);
    struct rusage used;
    getrusage(RUSAGE_CHILDREN, &used);
    FILE *out = fopen(words[1], "a");
    double cpu = used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    fprintf(out, "%.3f\t%ld\n", cpu, used.ru_maxrss);
    fclose(out);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}
PROGRAM
    fi
    "$scratch/measure" "$to" "$@"
}

compare python3 python3 <<'SCRIPT'
python3 -c "
import json, re, collections, threading, subprocess, os, functools
n = 200000 // int(os.environ['SCALE'])
words = [('w%d' % (i * 7919 % 10007)) * (i % 7 + 1) for i in range(n)]
print(sum(map(len, words)), len(collections.Counter(words)))
text = json.dumps([{'k': w, 'v': [i, str(i)]} for i, w in enumerate(words)])
print(len(text), len(json.loads(text)))
print(len(re.findall('w[0-9]+', text)))
out = []
def work(seed):
    tree = {}
    for i in range(n // 10):
        tree[i * seed % 99991] = [i] * (i % 50)
    out.append((seed, len(tree)))
threads = [threading.Thread(target=work, args=(s,)) for s in range(1, 9)]
[t.start() for t in threads]; [t.join() for t in threads]
print(sorted(out))
print([subprocess.run(['echo', str(i)], capture_output=True, text=True).stdout for i in range(5)])
pid = os.fork()
if pid == 0:
    os._exit(len([str(i) for i in range(1000)]) % 251)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"
SCRIPT

compare perl perl <<'SCRIPT'
perl -e '
my $n = 600000 / $ENV{SCALE}; my %h;
for my $i (1 .. $n) { my $k = ($i * 7919) % 100003; $h{"k$k"} .= "x" x ($i % 40); delete $h{"k" . ($i % 5003)} if $i % 3 == 0; }
my $t = 0; $t += length for values %h; print scalar(keys %h), " $t\n";
my @a = sort { $a cmp $b } map { "line " . ($_ * 31 % 1009) . ("y" x ($_ % 100)) } 1 .. $n / 4; print "$a[0] $a[-1] ", scalar(@a), "\n";
my $s = join ",", @a; my $c = () = $s =~ /line (\d+)/g; print "$c ", length($s), "\n";'
SCRIPT

compare lua lua5.4 <<'SCRIPT'
lua5.4 -e '
local n = 2000000 // tonumber(os.getenv("SCALE")); local t = {}
for i = 1, n do t[i % 50021] = { i, tostring(i), string.rep("z", i % 30) } end
local total = 0; for _, v in pairs(t) do total = total + #v[3] + #v[2] end print(total)
local parts = {}; for i = 1, n // 10 do parts[#parts + 1] = "p" .. i end print(#table.concat(parts, ";"))'
SCRIPT

compare sqlite3 sqlite3 <<'SCRIPT'
sqlite3 db "pragma journal_mode = memory; create table t(a integer primary key, b text, c real);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 300000 / $SCALE)
  insert into t select i, printf('%08d-%s', i * 7919 % 100003, hex(i)), i / 3.0 from n;
create index tb on t(b); delete from t where a % 7 = 0; select count(*), sum(length(b)), round(sum(c), 2) from t;
select substr(b, 1, 3) p, count(*) from t group by p order by 2 desc, 1 limit 5;
update t set b = b || b where a % 5 = 0; select max(length(b)), total(a) from t; vacuum; pragma integrity_check;"
SCRIPT

compare gcc gcc <<'SCRIPT'
{
    echo '#include <stdio.h>'
    for i in $(seq $((800 / SCALE))); do
        echo "struct s$i { int a[$((i % 50 + 1))]; double d; }; static int f$i(struct s$i *s, int n) { int t = $i;" \
            "for (int k = 0; k < n; k++) t = t * 31 + s->a[k % $((i % 50 + 1))]; return t ^ (int)s->d; }"
    done
    echo 'int main(void) { int t = 0;'
    for i in $(seq $((800 / SCALE))); do echo "{ struct s$i s = { { $i }, $i }; t ^= f$i(&s, 20); }"; done
    echo 'printf("%d\n", t); return 0; }'
} >program.c
gcc -O2 -c program.c -o program.o && gcc program.o -o program && ./program && md5sum <program.o
SCRIPT

compare node node <<'SCRIPT'
node -e '
const n = 400000 / process.env.SCALE; const m = new Map();
for (let i = 0; i < n; i++) m.set("k" + (i * 7919 % 100003), Buffer.alloc(i % 500, i % 256));
let t = 0; for (const b of m.values()) t += b.length; console.log(m.size, t);
const text = JSON.stringify([...m.keys()]); console.log(text.length, JSON.parse(text).length);
console.log(require("zlib").gunzipSync(require("zlib").gzipSync(text)).length);
console.log(require("crypto").createHash("sha256").update(text).digest("hex"));'
SCRIPT

compare gawk gawk <<'SCRIPT'
gawk 'BEGIN { n = 1000000 / ENVIRON["SCALE"]; for (i = 0; i < n; i++) { k = (i * 7919) % 50021; a[k] = a[k] "q" (i % 10); if (length(a[k]) > 60) delete a[k] }
for (k in a) t += length(a[k]); print t, length(a); n = asort(a, b); print b[1], b[n] }'
SCRIPT

compare jq jq <<'SCRIPT'
jq -nc "[range(200000 / $SCALE | floor) | {id: ., name: \"n\(. * 7919 % 1009)\", list: [range(. % 7)]}]" >in.json
jq -c 'group_by(.name) | map({n: .[0].name, c: length, s: (map(.list | add // 0) | add)}) | sort_by(.c) | .[0:5], length' in.json
md5sum <in.json
SCRIPT

compare xmllint xmllint <<'SCRIPT'
{
    echo '<?xml version="1.0"?><all>'
    for i in $(seq $((60000 / SCALE))); do echo "<item id=\"i$i\" n=\"$((i * 7919 % 1009))\"><t>text $i &amp; more</t><e/></item>"; done
    echo '</all>'
} >in.xml
xmllint --format in.xml | md5sum
xmllint --xpath 'count(//item[@n > 500])' in.xml
xmllint --c14n in.xml | md5sum
SCRIPT

compare redis redis-server redis-benchmark redis-cli <<'SCRIPT'
redis-server --port 0 --unixsocket "$PWD/s" --save '' --appendonly no --daemonize no --dir "$PWD" >log 2>&1 &
for _ in $(seq 100); do [ -S s ] && break; sleep 0.05; done
redis-benchmark -s "$PWD/s" -n $((200000 / SCALE)) -r 20000 -d 100 -t set,get,lpush,lpop,sadd,hset,zadd,mset -q >bench 2>&1 && echo ran
cli() { redis-cli -s "$PWD/s" "$@"; }
for i in $(seq 50); do cli set "key:$i" "$(printf "%0${i}d" "$i")" >/dev/null; done
cli strlen key:50; cli mget key:1 key:2 key:3
cli save; cli bgsave >/dev/null; sleep 1; cli debug reload
cli strlen key:49; cli memory purge; cli lastsave | wc -l
cli shutdown nosave || true
wait; [ -s dump.rdb ] && echo saved; redis-check-rdb dump.rdb | tail -1
SCRIPT

compare ruby ruby <<'SCRIPT'
ruby -e 'n = 600000 / ENV["SCALE"].to_i; h = {}
n.times { |i| h["k#{i * 7919 % 50021}"] = [i, "v" * (i % 60)] }
puts h.size, h.values.sum { |v| v[1].size }
a = h.keys.sort; puts a[0], a[-1], a.join(",").scan(/k1/).size
puts Marshal.load(Marshal.dump(h)).size'
SCRIPT

# Without extensions: Debian's php loads them with RTLD_DEEPBIND, which binds their `free` to the C library's and not to any
# preloaded one.
compare php php <<'SCRIPT'
USE_ZEND_ALLOC=0 php -n -r '$n = intdiv(600000, (int)getenv("SCALE")); $a = [];
for ($i = 0; $i < $n; $i++) { $a["k" . ($i * 7919 % 50021)] = str_repeat("x", $i % 60) . $i; }
ksort($a); echo count($a), " ", strlen(serialize($a)), "\n"; echo md5(json_encode($a)), "\n";'
SCRIPT

compare tcl tclsh <<'SCRIPT'
cat >program.tcl <<'TCL'
set n [expr {600000 / $env(SCALE)}]
for {set i 0} {$i < $n} {incr i} { dict lappend all k[expr {$i * 7919 % 5021}] $i; set other([expr {$i % 30011}]) [string repeat z [expr {$i % 50}]] }
puts "[dict size $all] [array size other] [llength [lsort [dict keys $all]]]"
TCL
tclsh program.tcl
SCRIPT

compare guile guile <<'SCRIPT'
guile --no-auto-compile -c '(let* ((n (quotient 600000 (string->number (getenv "SCALE")))) (h (make-hash-table)))
(do ((i 0 (+ i 1))) ((= i n)) (hash-set! h (modulo (* i 7919) 50021) (make-string (modulo i 50) #\x)))
(display (hash-count (const #t) h)) (newline)
(display (hash-fold (lambda (k v t) (+ t (string-length v))) 0 h)) (newline))'
SCRIPT

compare g++ g++ <<'SCRIPT'
{
    echo '#include <algorithm>'; echo '#include <iostream>'; echo '#include <map>'; echo '#include <string>'; echo '#include <vector>'
    for i in $(seq $((60 / SCALE + 1))); do
        echo "template <int N> struct t$i { std::map<int, std::vector<std::string>> m; int f() { m[N].push_back(std::to_string(N));" \
            "std::vector<int> v(N); std::sort(v.begin(), v.end()); return m.size() + v.size(); } };"
    done
    echo 'int main() { int s = 0;'
    for i in $(seq $((60 / SCALE + 1))); do echo "t$i<$i> x$i; s += x$i.f();"; done
    echo 'std::cout << s << std::endl; }'
} >program.cc
g++ -O1 program.cc -o program && ./program && md5sum <program
SCRIPT

compare sort sort <<'SCRIPT'
seq $((2000000 / SCALE)) | awk '{ print $1 * 7919 % 1000003, "line", $1 }' >in
sort -k1n in | md5sum; sort -u -k1,1 --parallel=2 in | wc -l
SCRIPT

compare xz xz <<'SCRIPT'
seq $((1500000 / SCALE)) >in; xz -T1 -4 -k in && xz -dc in.xz | cmp - in && md5sum <in.xz
SCRIPT

compare zstd zstd <<'SCRIPT'
seq $((6000000 / SCALE)) >in; zstd -q -9 -T2 in -o out && zstd -qdc out | cmp - in && md5sum <in
SCRIPT

compare bzip2 bzip2 <<'SCRIPT'
seq $((1500000 / SCALE)) >in; bzip2 -k in && bunzip2 -c in.bz2 | cmp - in && md5sum <in.bz2
SCRIPT

compare convert convert <<'SCRIPT'
convert -size $((2000 / SCALE + 200))x800 gradient:red-blue -rotate 30 -blur 0x3 -resize 50% -colors 64 out.ppm
md5sum <out.ppm
SCRIPT

compare gs gs <<'SCRIPT'
{
    echo '%!PS'; echo '/Times-Roman findfont 12 scalefont setfont'
    for i in $(seq $((200 / SCALE + 1))); do
        for j in $(seq 20); do echo "72 $((j * 30)) moveto (page $i line $j of many) show"; done
        echo showpage
    done
} >in.ps
gs -q -dNOPAUSE -dBATCH -dSAFER -sDEVICE=pgmraw -r72 -sOutputFile='|md5sum' in.ps
SCRIPT

compare cmake cmake make gcc <<'SCRIPT'
echo 'cmake_minimum_required(VERSION 3.10)' >CMakeLists.txt; echo 'project(p C)' >>CMakeLists.txt
for i in $(seq $((200 / SCALE))); do echo "int f$i(void) { return $i; }" >"f$i.c"; echo "add_library(l$i STATIC f$i.c)" >>CMakeLists.txt; done
cmake -S . -B build >log 2>&1 && ls build | grep -c Makefile
SCRIPT

compare m4 m4 <<'SCRIPT'
{
    echo "define(\`loop', \`ifelse(\$1, 0, \`', \`\$1 loop(decr(\$1))')')"
    for i in $(seq $((20000 / SCALE))); do echo "define(\`m$i', \`n\$1 text $i')m$i($i)"; done
    echo "loop(500)"
} | m4 | md5sum
SCRIPT

compare git git <<'SCRIPT'
export HOME=$PWD GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' GIT_COMMITTER_DATE='2020-01-01T00:00:00Z'
git -c init.defaultBranch=main init -q r && cd r && git config user.name n && git config user.email n@example.org
for i in $(seq $((1000 / SCALE))); do seq "$i" $((i + 300)) >"f$i"; done
git add . && git commit -qm one && for i in $(seq 10); do echo "$i" >>"f$i"; git commit -qam "$i"; done
git log --stat | md5sum; git gc -q; git fsck 2>&1 | tail -1; git rev-parse HEAD
SCRIPT

compare dot dot <<'SCRIPT'
{ echo 'digraph g {'; for i in $(seq $((600 / SCALE))); do echo "n$i -> n$((i * 7 % 97)); n$i -> n$((i * 13 % 211));"; done; echo '}'; } >in.dot
dot -Tplain in.dot | md5sum
SCRIPT

compare bc bc <<'SCRIPT'
echo "scale=$((3000 / SCALE)); 4*a(1); e(1); l(2)" | BC_LINE_LENGTH=0 bc -l | md5sum
SCRIPT

compare shell bash sort sed grep tar gzip <<'SCRIPT'
seq $((300000 / SCALE)) | sed 's/3/three/g' | sort -r | grep -c three
for i in $(seq 20); do echo "$(echo "$i" | tr 1 2)" | cat; done
mkdir d; for i in $(seq 50); do seq "$i" >"d/$i"; done
tar cf - d | gzip | gunzip | tar tf - | sort | md5sum
SCRIPT

# Allocates and frees in rounds; each round has objects of other sizes.
compare phases cc <<'SCRIPT'
cat >program.c <<'C'
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(int count, char **words) {
    int rounds = atoi(words[1]);
    static char *held[20000];
    unsigned long number = 1, sum = 0;
    for (int round = 0; round < rounds; round++) {
        size_t base = 16 + round * 37 % 30 * 48;
        for (int i = 0; i < 20000; i++) {
            number = number * 6364136223846793005UL + 1442695040888963407UL;
            size_t bytes = base + (number >> 33) % 64;
            held[i] = malloc(bytes);
            memset(held[i], round, bytes < 64 ? bytes : 64);
            sum += bytes;
        }
        for (int i = 0; i < 20000; i++) free(held[i]);
    }
    printf("%lu\n", sum);
    return 0;
}
C
cc -O1 -o program program.c && ./program $((900 / SCALE))
SCRIPT

# Many short processes, each of which fills a table: what matters is the first moment.
compare cold awk seq <<'SCRIPT'
for i in $(seq $((200 / SCALE))); do
    awk -v n="$i" 'BEGIN { for (i = 0; i < 20000; i++) t[i * 7919 % 10007] = t[i * 31 % 10007] n; for (k in t) s += length(t[k]); print s }'
done | tail -1
SCRIPT

if [ ${#skipped[@]} -gt 0 ]; then
    echo "not installed: ${skipped[*]}"
fi
if [ -s "$scratch/ratios" ]; then
    means
fi
echo "$ran programs ran"
exit $failed
