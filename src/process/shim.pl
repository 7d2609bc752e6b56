#!/usr/bin/perl
# The shim: stays with one command from its start to its end, and writes down how it ended whatever else dies.
#
#   perl shim.pl DIR COMMAND [ARG]…     started by shim.ts
#
# It reads from standard input what it is to do and the command's environment (a file would keep secrets), says on descriptor 3
# whether the command runs, and from then on needs nobody. Orders come through DIR/control, a FIFO: no pid is needed to stop it.
# Or `vmspool run` has become us by execve(2), with the orders in its environment: then the shim is our child, and we say ourselves
# what came of it.
#
# Perl, because it is on every Debian (perl-base is Essential), takes about a megabyte, and can tell what a shell cannot: exit
# code 143 from SIGTERM. No module is loaded: each costs more memory and time than this whole file.
use strict;

my ($dir, @command) = @ARGV;
my $become = delete $ENV{VMSPOOL_SHIM};
my (%o, @words);
if (defined $become) {
  %o = map { s/%(..)/chr hex $1/ger } split /[=&]/, $become, -1;
  delete $ENV{LC_ALL};
  $ENV{substr $_, 4} = delete $o{$_} for grep /^env:/, keys %o;
  @words = %ENV;
} else {
  (my $count, @words) = do { local $/; split /\0/, <STDIN> // '', -1 }; # how many words of orders, those, the environment, "end"
  exit 70 if (pop(@words) // '') ne 'end'; # who started us died halfway
  %o = splice @words, 0, $count;
}
my %nr = $o{arch} eq 'arm64' # Linux system calls that Perl has no word for
  ? (setsid => 157, prctl => 167, clock => 113, fsync => 82, mknodat => 33, exit => 94, pidfd => 434, waitid => 95)
  : (setsid => 112, prctl => 157, clock => 228, fsync => 74, mknodat => 259, exit => 231, pidfd => 434, waitid => 247);
my $given = $o{stdin} eq '/dev/fd/4'; # the command's standard input, opened by whoever started us
syscall 436, defined $become ? 3 : $given ? 5 : 4, 0x7fffffff, 0; # close_range(2): a lock or pipe of whoever started us is not ours to hold
my @signals = qw(0 HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU
  URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS);
my $APPEND = 02001 | 0100; # O_APPEND O_WRONLY O_CREAT
my ($EINTR, $WNOHANG) = (4, 1);

sub clock { # ms; 0: since 1970, 1: monotonic
  my $b = "\0" x 16;
  syscall $nr{clock}, $_[0], $b;
  my ($s, $ns) = unpack 'qq', $b;
  $s * 1000 + int($ns / 1e6);
}
sub rfc3339 {
  my @t = gmtime($_[0] / 1000);
  sprintf '%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', $t[5] + 1900, $t[4] + 1, @t[3, 2, 1, 0], $_[0] % 1000;
}
sub text { # as JSON
  my $s = shift;
  $s =~ s/[^\x20-\x7e]/?/g;
  $s =~ s/(["\\])/\\$1/g;
  "\"$s\"";
}
sub because { # why a command was not started, in words
  my ($step, $errno, $why) = @_;
  $step eq 'cwd' ? "its working directory $o{cwd} cannot be entered ($why)"
    : $step eq 'stdin' ? "its standard input $o{stdin} cannot be opened ($why)"
    : $step eq 'exec' && $errno == 2 ? ($command[0] =~ m{/} ? "there is no file $command[0]" : "there is no program \"$command[0]\" in PATH")
    : $step eq 'exec' && $errno == 13 ? "$command[0] may not be executed by this user, or is no program"
    : $why;
}
sub slurp { local $/; open my $f, '<', $_[0] or return ''; <$f> // '' }
sub put { # whole or not at all
  my ($path, $content, $mode) = @_;
  sysopen(my $f, "$path.tmp", 01101, $mode) or return; # O_WRONLY O_CREAT O_TRUNC
  my $n = syswrite $f, $content;
  if (($n // -1) != length $content) { $! = 28 if defined $n; return }
  syscall $nr{fsync}, fileno($f) + 0 if $o{fsync};
  close $f and rename "$path.tmp", $path;
}
sub insist { # how it ended is known to us alone: where there is no room for that (or no memory, descriptor, disk) we wait until there is
  my $write = shift;
  select undef, undef, undef, 0.5 until $write->() || !{ 5 => 1, 12 => 1, 23 => 1, 24 => 1, 28 => 1, 30 => 1, 122 => 1 }->{$! + 0};
}

# ---- `vmspool run`

my $report;
if (defined $become) {
  pipe my $begun, $report;
  my $pid = fork;
  if (!defined $pid || $pid) {
    close $report;
    my $said = defined $pid ? <$begun> // 'failed shim 0 its shim died before it could say how it went' : 'failed fork ' . ($! + 0) . " $!";
    my ($ok, $of, $errno, $why) = split ' ', $said, 4;
    chomp $why if $why;
    waitpid $pid, 0 if $pid && $ok ne 'ok'; # until it has recorded that
    if (length $o{json}) { # what is on record by now
      my $job = slurp($o{status});
      $job =~ s/\s+\z//;
      $job =~ s/^/  /mg;
      print "[\n$job\n]\n";
    } elsif ($ok eq 'ok') { print $o{say_before}, $o{say_before} =~ /: $/ ? $of : (), $o{say_after} }
    exit 0 if $ok eq 'ok';
    my $recorded = $of eq 'shim' || $of eq 'fork' && !$pid ? "See vmspool status $o{id}." : "Nothing runs; job $o{id} is on record as failed.";
    print STDERR "vmspool: \"$o{words}\" could not be started: " . because($of, $errno, $why) . ". $recorded\n";
    exit 1;
  }
  close $begun;
  open STDIN, '<', '/dev/null';
  open STDOUT, '>', '/dev/null';
  open STDERR, '>', '/dev/null';
  syscall $nr{setsid};
  chdir '/';
} else {
  open $report, '>&=', 3;
}

# ---- the start

$SIG{HUP} = $SIG{INT} = $SIG{PIPE} = 'IGNORE';
$SIG{CHLD} = 'DEFAULT';
my $told;
$SIG{TERM} = sub { $told = 1 };
syscall $nr{prctl}, 36, 1, 0, 0, 0; # PR_SET_CHILD_SUBREAPER: what the command leaves behind becomes our child, and is found
syscall $nr{mknodat}, -100, "$dir/control", 0010600, 0; # S_IFIFO
sysopen my $control, "$dir/control", 04002; # O_NONBLOCK O_RDWR: it never ends
pipe my $out, my $out_w;
pipe my $err, my $err_w;
pipe my $go, my $go_w;
pipe my $failed, my $failed_w;
my $child = fork;
if (defined $child && !$child) {
  $SIG{$_} = 'DEFAULT' for qw(HUP INT PIPE TERM);
  syscall $nr{setsid};
  close $go_w;
  my $n;
  1 until defined($n = sysread $go, my $b, 1) || $! != $EINTR; # not before it is written down who we are
  syscall $nr{exit}, 127 if !$n;
  %ENV = @words;
  my $step = 'cwd';
  if (chdir $o{cwd}) {
    $step = 'stdin';
    if (open STDIN, '<', $o{stdin}) {
      open STDOUT, '>&', $out_w;
      open STDERR, '>&', $err_w;
      $step = 'exec';
      exec { $command[0] } @command;
    }
  }
  syswrite $failed_w, $step . ' ' . ($! + 0) . " $!";
  syscall $nr{exit}, 127;
}
close $_ for $out_w, $err_w, $go, $failed_w;
if ($given) { open my $in, '<&=', 4; close $in }
open STDIN, '<', '/dev/null';
undef @words;
my ($started, $begun) = (clock(0), clock(1));
my $refused = defined $child ? '' : 'fork ' . ($! + 0) . " $!";
my $ticks = 0;
sub ticks { my $stat = slurp("/proc/$_[0]/stat"); (split ' ', substr $stat, rindex($stat, ')') + 2)[19] }
if ($child) {
  $ticks = ticks($child);
  my $own = ticks($$);
  my $since = rfc3339($started);
  put("$dir/process.json", qq({"schema":1,"pid":$child,"start_ticks":$ticks,"boot_id":"$o{boot_id}","pidns":$o{pidns},)
    . qq("token":"$o{token}","host":) . text($o{host}) . qq(,"shim":{"pid":$$,"start_ticks":$own},"started_at":"$since"}\n), 0644)
    or $refused = 'record ' . ($! + 0) . " $!";
  if ($o{status}) { # before the command can end: from then on only we write it
    local $o{fsync};
    my $job = slurp($o{status});
    $job =~ s/^  "started_at": "[^"]*",\n/  "started_at": "$since",\n  "pid": $child,\n/m;
    put($o{status}, $job, 0644);
  }
  if ($refused) { close $go_w } # without its record a command must not start
  else { syswrite $go_w, 'g'; 1 until defined sysread($failed, $refused, 512) || $! != $EINTR }
}
syswrite $report, $refused ? "failed $refused\n" : "ok $child $ticks\n";
close $report;
close $failed;

# Only now does perl read the rest, which is most of it: half of the time that a start takes us. By a handle of our own: that of DATA is
# shared with those that we have forked, and moves when they end.
my $at = tell DATA;
close DATA;
eval "#line @{[__LINE__ + 3]} \"$0\"\n" . do { local $/; open my $rest, '<', $0; seek $rest, $at, 0; <$rest> };
die $@ if $@;
__END__

# ---- the log: `<time> <stream> <F|P> <content>` as in Kubernetes (CRI); rotated between lines, compressed, bounded in total

my ($log_dir, $log_name) = $o{log} =~ m{^(.*)/([^/]+)$}s;
my ($log, $logged, $log_since, $torn, $gzip, $lost, $lost_why) = (undef, 0, '', 0, undef, 0, '');
sub segments { # [number, file, bytes], oldest first
  opendir my $d, $log_dir or return;
  sort { $a->[0] <=> $b->[0] } map { /^\Q$log_name\E\.(\d+)(?:\.gz)?$/ ? [$1, $_, -s "$log_dir/$_"] : () } readdir $d;
}

sub log_open {
  sysopen $log, $o{log}, 02102, oct $o{log_mode} or return undef $log; # O_APPEND O_RDWR O_CREAT
  $logged = -s $log;
  ($log_since, $torn) = ('', 0);
  sysseek $log, 0, 0; # Perl goes to the end of what it opens to append
  if ($logged && sysread $log, $log_since, 24) { # when its first line was written, unless it has no marks
    $log_since = '' if $log_since !~ /^\d{4}-\d\d-\d\dT[\d:.]+Z$/;
    sysseek $log, -1, 2;
    sysread $log, my $end, 1;
    $torn = $end ne "\n"; # somebody was killed in the middle of a line
  }
}
sub log_bytes {
  my ($b, $at) = ($torn ? "\n$_[0]" : $_[0], 0);
  while ($at < length $b) {
    my $n = $log ? syswrite $log, $b, length($b) - $at, $at : undef;
    if (!defined $n) { # a full disk ends no job; that something is missing is said when there is room again
      next if $log && $! == $EINTR;
      $lost_why = "$!";
      $torn = substr($b, $at - 1, 1) ne "\n" if $at;
      return length($b) - $at;
    }
    $at += $n;
    $logged += $n;
  }
  $torn = 0; # and nothing is missing
}
sub log_lost { # what is missing is said where it is missing
  my $n = $lost;
  log_open() if !$log;
  log_bytes(rfc3339(clock(0)) . " agent F $n bytes of output could not be written here: $lost_why\n") or $lost = 0;
}
sub log_chunk {
  my ($stream, $chunk) = @_;
  my $now = clock(0);
  my $mark = rfc3339($now);
  log_open() if !$log;
  rotate() if $logged >= $o{log_max} || ($o{log_age} && $log_since && $log_since le rfc3339($now - $o{log_age}));
  log_lost() if $lost;
  $log_since ||= $mark;
  my $bytes = length $chunk;
  my $rest = substr $chunk, rindex($chunk, "\n") + 1, length $chunk, '';
  $chunk =~ s/^/$mark $stream F /mg if length $chunk;
  $chunk .= "$mark $stream P $rest\n" if length $rest;
  my $left = $lost ? length $chunk : log_bytes($chunk); # no output between what is missing and the word about it
  $lost += $left < $bytes ? $left : $bytes;
}
sub appended { # whether somebody may still write into it: log-append.ts says how
  my ($ino, $links) = (stat $_[0])[1, 3];
  return if ($links // 1) < 2;
  opendir my $d, $log_dir or return;
  grep { /^\.\Q$log_name\E\.w-(\d+)/ && abs(clock(0) - $1) < 10_000 && ((stat "$log_dir/$_")[1] // 0) == $ino } readdir $d;
}
sub rotate { # log-files.ts says why so
  log_bytes('') if $torn; # a part ends with a line
  compressed() if $gzip; # a flood waits for gzip here instead of filling the disk
  my $segment = 1;
  for (segments()) { $segment = $_->[0] + 1 if $_->[0] >= $segment }
  my $old = "$log_dir/$log_name.$segment";
  my $packed = "$log_dir/.$log_name.$segment.gz.$$.tmp";
  sysopen my $taken, $old, 0301, 0600 or return; # O_WRONLY O_CREAT O_EXCL
  close $taken;
  rename $o{log}, $old or unlink($old), return;
  close $log;
  log_open();
  my $pid = fork;
  if (defined $pid && !$pid) {
    select undef, undef, undef, 0.005 while appended($old);
    open STDIN, '<', $old and sysopen STDOUT, $packed, 01101, oct $o{log_mode} and exec 'nice', 'gzip', '-1';
    syscall $nr{exit}, 127;
  }
  $gzip = { pid => $pid, old => $old, packed => $packed } if $pid;
  my @all = segments();
  my $sum = $o{log_max};
  $sum += $_->[2] for @all;
  while (@all > 1 && $sum > $o{log_total}) {
    my $first = shift @all;
    unlink "$log_dir/$first->[1]";
    $sum -= $first->[2];
  }
}
my @used = (0, 0); # processor time of gzip, which is not the command's
sub gzip_used { my @now = (times)[2, 3]; $used[$_] += $now[$_] - $_[$_] for 0, 1 }
sub compressed {
  my ($status) = @_;
  if (!defined $status) {
    my ($user, $system) = (times)[2, 3];
    1 until waitpid($gzip->{pid}, 0) != -1 || $! != $EINTR;
    $status = $?;
    gzip_used($user, $system);
  }
  if ($status == 0 && open(my $f, '<', $gzip->{packed})) {
    syscall $nr{fsync}, fileno($f) + 0 if $o{fsync};
    rename $gzip->{packed}, "$gzip->{old}.gz" and unlink $gzip->{old};
  } else {
    unlink $gzip->{packed}; # no gzip here, or no room: it stays as it is
  }
  undef $gzip;
}

# ---- until nothing of it is left

my ($status, $finished, $ended, $kill_at, $killed, $orphans, %stop);
$SIG{CHLD} = sub { $orphans = 1 }; # wakes us
my $timeout_at = $o{timeout} ? $begun + $o{timeout} : 0;
my $pidfd;
if ($child && (my $fd = syscall $nr{pidfd}, $child + 0, 0) >= 0) { open $pidfd, '<&=', $fd }
my %open = $refused ? () : (stdout => $out, stderr => $err);

sub children { # of every thread
  my $of = shift;
  opendir my $d, "/proc/$of/task" or return;
  map { /^\d/ ? split ' ', slurp("/proc/$of/task/$_/children") : () } readdir $d;
}
sub ours { grep { !$gzip || $_ != $gzip->{pid} } children($$) }
sub parent_of { my $stat = slurp("/proc/$_[0]/stat"); (split ' ', substr $stat, rindex($stat, ')') + 2)[1] // 0 }
sub left { for (ours()) { return 1 if !defined over($_) } 0 } # who lives further down has an ancestor among them
# No stranger is ever signalled. The command itself, and what became our child, keep their pids until we take note of their end,
# and so does the command's group; whoever is further down is looked at once more right before, and is our child soon.
sub end_all { # one system call for the group leaves no gap for what forks; then what left the group
  my $signal = shift;
  kill $signal, -$child;
  kill 'CONT', -$child if $signal ne 'KILL'; # what was stopped hears nothing
  return if !$ended && $signal ne 'KILL';
  # What forks on and on outside the group is stopped first, all of it: to kill one makes room for the next.
  my ($round, %stopped) = 0;
  if ($signal eq 'KILL') {
    setpriority 0, 0, -20; # if we may: hundreds of them leave us little of the processor
    1 while (grep { !$stopped{$_}++ } each_of('STOP')) && ++$round < 50;
  }
  each_of($signal);
}
sub each_of { # from top to bottom: our own children first, which are most of what forks and goes
  my ($signal, @next, @all) = ($_[0], ours());
  while (@next && @all < 100_000) {
    kill $signal, $_ for @next;
    push @all, @next;
    @next = map { my $of = $_; grep { parent_of($_) == $of } children($of) } @next;
  }
  @all;
}
sub ask {
  my ($signal, $grace) = @_;
  $signal = 'TERM' if $signal !~ /^SIG(?:HUP|INT|QUIT|KILL|USR[12]|TERM)$/; # kill() dies of a name that it does not know
  my $at = clock(1) + $grace;
  $kill_at = $at if !$kill_at || $at < $kill_at;
  end_all($grace > 0 ? $signal : 'KILL');
}
sub order { # from the FIFO: "stop <who> <grace ms> <signal>"
  my ($what, $by, $grace, $signal) = split ' ', shift;
  return if $what ne 'stop';
  return ask($signal, $grace) if $ended; # it was not that which ended the command, only what it left
  $stop{by} //= $by;
  $stop{at} //= rfc3339(clock(0));
  $stop{forced} ||= $grace <= 0;
  ask($signal, $grace);
}
sub over { # how a child ended, as in wait(2); it keeps its pid
  my $info = "\0" x 128;
  syscall($nr{waitid}, 1, $_[0] + 0, $info, 0x1000005, 0) == 0 or return; # P_PID; WNOWAIT WEXITED WNOHANG
  my ($is, $how, $what) = unpack 'l x4 l x12 l', $info;
  $is ? $how == 1 ? $what << 8 : $what | ($how == 3 ? 128 : 0) : undef; # CLD_EXITED, CLD_DUMPED
}
my $reaped = 0;
sub reap {
  my $now = shift;
  if (!$ended && defined(my $how = over($child))) { ($status, $finished, $ended) = ($how, clock(0), clock(1)) }
  return if !$orphans || $now < $reaped + 20;
  ($orphans, $reaped) = (0, $now);
  for my $pid (children($$)) {
    next if $pid == $child;
    my @before = (times)[2, 3];
    next if waitpid($pid, $WNOHANG) <= 0 || !$gzip || $pid != $gzip->{pid};
    my $how = $?;
    gzip_used(@before);
    compressed($how);
  }
}
while ($child) {
  my $now = clock(1);
  reap($now);
  if ($told) { $told = 0; order("stop SIGTERM-to-its-shim $o{grace} $o{kill_signal}") }
  if (!$ended && !$stop{timed_out} && $timeout_at && $now >= $timeout_at) {
    $stop{timed_out} = 1;
    ask($o{kill_signal}, $o{grace});
  }
  if ($ended && !left()) {
    for my $stream (reverse sort keys %open) { # what is in the pipe by now is its own; who left our tree can hold it open for ever
      my $bytes = pack 'l', 0;
      ioctl $open{$stream}, 0x541b, $bytes; # FIONREAD
      for (my $n = unpack 'l', $bytes; $n > 0;) {
        my $got = sysread $open{$stream}, my $chunk, $n < 65536 ? $n : 65536;
        if ($got) { log_chunk($stream, $chunk); $n -= $got }
        elsif (defined $got || $! != $EINTR) { last }
      }
    }
    last;
  } elsif ($ended && !$stop{rest}++) {
    ask('TERM', $o{grace}); # what the command left running ends with it
  }
  if ($kill_at && $now >= $kill_at) {
    $killed ||= $now;
    last if $ended && $now >= $killed + 10_000; # in uninterruptible sleep, or not ours to end: whoever looks sees it
    end_all('KILL');
  }
  my $wait = $ended || $orphans ? 20 : $killed ? 50 : $pidfd ? 10_000 : 100; # no pidfd: a kernel before 5.3
  for my $at ($stop{timed_out} ? 0 : $timeout_at, $killed ? 0 : $kill_at) {
    $wait = $at > $now ? $at - $now : 0 if $at && $at - $now < $wait;
  }
  my $ready = '';
  vec($ready, fileno $_, 1) = 1 for values %open, $control, ($pidfd && !$ended ? $pidfd : ());
  select($ready, undef, undef, $wait / 1000) > 0 or next;
  for my $stream (reverse sort keys %open) { # of two that come together stdout first
    vec $ready, fileno $open{$stream}, 1 or next;
    my $n = sysread $open{$stream}, my $chunk, 65536;
    if ($n) { log_chunk($stream, $chunk) }
    elsif (defined $n || $! != $EINTR) { delete $open{$stream} }
  }
  if (vec $ready, fileno $control, 1) {
    sysread $control, my $lines, 4096;
    order($_) for split /\n/, $lines // '';
  }
}

# ---- how it ended

$finished //= clock(0);
$ended //= clock(1);
my ($code, $signal);
if (!$refused) {
  if ($status & 127) { $signal = 'SIG' . ($signals[$status & 127] // 'RT' . ($status & 127)) }
  else { $code = $status >> 8 }
}
log_lost() if $lost;
compressed() if $gzip;
1 until !$child || waitpid($child, 0) != -1 || $! != $EINTR;
my ($user, $system) = map { int(((times)[$_ + 2] - $used[$_]) * 1000 + 0.5) } 0, 1;
my ($since, $when, $took) = (rfc3339($started), rfc3339($finished), $ended - $begun);
my ($step, $errno, $why) = $refused =~ /^(\w+) (\d+) (.*)/s;
my $exit = qq({"schema":1,"exit_code":) . ($code // 'null') . ',"signal":' . ($signal ? "\"$signal\"" : 'null')
  . qq(,"started_at":"$since","finished_at":"$when","duration_ms":$took,"user_ms":$user,"system_ms":$system);
$exit .= ',"core":true' if !$refused && $status & 128;
$exit .= ',"timed_out":true' if $stop{timed_out};
$exit .= ',"stopped":{"by":' . text($stop{by}) . qq(,"at":"$stop{at}","forced":) . ($stop{forced} ? 'true}' : 'false}') if $stop{by};
$exit .= qq(,"spawn_error":{"step":"$step","errno":$errno,"message":) . text($why) . '}' if $refused;
insist(sub { put("$dir/exit.json", "$exit}\n", 0644) });
unlink "$dir/control";
exit if !$o{record};

# ---- a job without an agent: nobody else is there to say how it ended

my %expected = map { $_ => 1 } split /,/, $o{expected};
my $how = defined $code ? "ended with exit code $code" : "ended with signal $signal";
my ($state, $error, $words) =
    $refused ? ('failed', 'spawn-failed', 'could not be started: ' . because($step, $errno, $why) . '.')
  : $stop{by} ? ('cancelled', 'cancelled', "was stopped by $stop{by}; it $how.")
  : $stop{timed_out} ? ('failed', 'timed-out', 'ran longer than its timeout of ' . $o{timeout} / 1000 . " s and was stopped; it $how.")
  : defined $code && $expected{$code} ? ('succeeded', '', "$how.")
  : ('failed', defined $code ? 'exit-code' : 'killed', "$how; expected was exit code " . join(' or ', sort { $a <=> $b } keys %expected) . '.');
$words = "\"$o{title} " . substr text($words), 1; # the title comes escaped
my $job = slurp($o{status});
$job =~ s/^  "(?:phase|waiting_on|reason|since)": .*\n//mg;
$job =~ s/^  "pid": \d+,\n//m if $refused;
$job =~ s/^  "state": "\w+"/  "state": "$state"/m;
my $more = qq(  "since": "$when",\n  "finished_at": "$when",\n  "reason": $words);
$more .= qq(,\n  "exit_code": $code) if defined $code;
$more .= qq(,\n  "signal": "$signal") if $signal;
$job =~ s/,?\s*\}\s*\z/,\n$more/;
my $last = $state eq 'succeeded'
  ? qq(  "summary": $words)
  : qq(  "error": {\n    "code": "$error",\n    "message": $words,\n    "hint": "Read the whole output with: vmspool logs $o{id}",\n    "transient": false\n  });
insist(sub { put($o{result}, "$job,\n  \"duration_ms\": $took,\n$last\n}\n", 0644) });
insist(sub { put($o{status}, "$job\n}\n", 0644) });
# Before the record moves: who follows the events then finds a job that is about to end, never one that was passed over.
if (sysopen my $events, $o{events}, $APPEND, 0644) {
  my $said = $state eq 'succeeded' ? '' : ",\"error\":$words";
  my $line = qq({"at":"$when","event":"finished","job":"$o{id}","name":$o{name},"kind":"command","state":"$state","epoch":0,)
    . qq("visible":false,"started_at":"$since","duration_ms":$took,"attempt":1$said}\n);
  insist(sub {
    my $n = syswrite($events, $line) // return;
    return 1 if $n == length $line;
    $line = "\n" . $line =~ s/^\n//r if $n; # half a line stands there
    $! = 28;
    0;
  });
}
insist(sub { rename $o{record}, $o{$state eq 'succeeded' ? 'done' : $state} });
