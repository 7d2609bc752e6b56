#!/usr/bin/perl
# `vmspool run` without Node: what most calls of it are, done in a tenth of the time that Node takes to start.
#
#   perl run-now.pl SHIM NODE MAIN run [OPTION]… COMMAND [ARG]…     started by bin/vmspool
#
# Writes the job's record as prepareRun() and createDirect() do (client/run.ts, spool/started.ts) and becomes the shim's starter as
# becomeShim() does (process/shim-orders.ts). Whatever is not plain becomes Node, with nothing done yet, and so does every mistake and
# refusal: their words are Node's. Plain is: one command, printable ASCII, the options below, no configuration, a spool that is there.
# test/cli/run-short.test.ts holds the files and orders of both ways against each other.
#
# No module is loaded: each costs more time than this whole file.
use strict;

delete $ENV{PERL_BADLANG}; # bin/vmspool's: a locale that is not there is no concern of ours
my ($shim, $node, $main, @args) = @ARGV;
my $undo;
sub node { # never comes back
  $undo->() if $undo;
  exec { $node } $node, '--', $main, @args;
  print STDERR "vmspool: Its own Node ($node) cannot be started: $!.\n";
  exit 78;
}

# ---- what was typed

my %long = (root => '', instance => '', cwd => '', name => '', output => '', 'no-fsync' => undef); # undef: takes no value
my %short = (c => 'cwd', o => 'output');
my @command = @args;
my %o = (instance => $ENV{VMSPOOL_INSTANCE} || 'default', output => 'table');
shift @command; # run
while (@command) {
  my $arg = shift @command;
  last if $arg eq '--';
  if ($arg !~ /^-./) { unshift @command, $arg; last }
  my ($name, $value) = $arg =~ /^--([a-z-]+)(?:=(.*))?\z/s ? ($1, $2)
    : $arg =~ /^-(\w)\z/ ? ($short{$1} // '') : '';
  node() if !exists $long{$name} || (defined $long{$name} ? !defined($value //= shift @command) : defined $value);
  $o{$name} = $value // 1;
}
my $size = 0;
$size += length for %ENV;
node() if $size > 100_000; # may be too much for a process to be given, which is Node's to say
node() if !@command || @command > 64 || $command[0] =~ m{\s|/\z|^\z} || $o{output} !~ /^(?:table|json|name)\z/;
length > 512 || !/^[ -~]*\z/ and node() for @command;

# ---- where: nothing may be configured

my $kept = qr/^VMSPOOL_(?:INSTANCE|ROOT|DEBUG|HOME|JOB|NAME|EPOCH|GROUP|OWNER|TEST_.*|RUNTIME_DIR|HISTORY_PATH)$/;
/^VMSPOOL_/ && !/$kept/ and node() for keys %ENV;
sub plain { $_[0] =~ m{^/[ -~]*\z} && $_[0] !~ m{//|/\z|/\.\.?(?:/|\z)} } # a path that is not written otherwise
$o{cwd} //= readlink '/proc/self/cwd';
my $home = $ENV{XDG_CONFIG_HOME} || ($ENV{HOME} && "$ENV{HOME}/.config");
my $data = $ENV{XDG_DATA_HOME} || ($ENV{HOME} && "$ENV{HOME}/.local/share");
$o{root} //= $ENV{VMSPOOL_ROOT} || ($< == 0 ? '/var/lib/vmspool' : $data && "$data/vmspool");
node() if !plain($o{root}) || !plain($o{cwd}) && $o{cwd} ne '/' || $o{cwd} =~ / \(deleted\)\z/ || $o{instance} !~ /^[A-Za-z0-9_][\w.:-]{0,63}\z/;
for my $dir ('/etc/vmspool', $home ? "$home/vmspool" : ()) {
  -e "$dir/$_" and node() for 'agent.yaml', "agent\@$o{instance}.yaml";
}

node() if $> == 0 && (stat "$o{root}/$o{instance}/jobs")[4]; # of another user: spool/belongs.ts

# ---- who and when

sub slurp { local $/; open my $f, '<', $_[0] or node(); <$f> // '' }
my $uname = "\0" x 390; # six fields of 65 bytes: uname(2) is 63 on x86-64, 160 on arm64, where 63 does nothing without a descriptor
my $arch = syscall(63, $uname) == 0 ? 'x64' : syscall(160, $uname) == 0 ? 'arm64' : node();
my $host = unpack 'x65 Z65', $uname;
my $boot_id = slurp('/proc/sys/kernel/random/boot_id') =~ s/\s+//gr;
my $pidns = (stat '/proc/self/ns/pid')[1] || node();
my $now = "\0" x 16;
syscall $arch eq 'x64' ? 228 : 113, 0, $now; # clock_gettime(2): CLOCK_REALTIME
my ($s, $ns) = unpack 'qq', $now;
my $ms = int($ns / 1e6);
my @t = gmtime $s;
my $at = sprintf '%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', $t[5] + 1900, $t[4] + 1, @t[3, 2, 1, 0], $ms;
open my $random, '<:raw', '/dev/urandom' or node();
sysread($random, my $bytes, 26) == 26 or node();
my $token = unpack 'x10 H32', $bytes;
# As ulidMaker() in spool/names.ts: 50 bits of time, then 80 of which the highest is free for counting and the lowest for nextUlid().
my @digits = split //, '0123456789ABCDEFGHJKMNPQRSTVWXYZ';
my $bits = sprintf('%050b', $s * 1000 + $ms) . '0' . substr(unpack('B80', $bytes), 1, 78) . '0';
my $id = join '', map $digits[oct "0b$_"], unpack '(A5)26', $bits;

my $name = $o{name} // $command[0] =~ m{([^/]*)\z} && $1;
if ($name !~ /^[A-Za-z0-9_][\w.+-]{0,99}\z/ || $name =~ /^(?:jobs|superseded|vms)\z/) { defined $o{name} ? node() : ($name = 'command') }
node() if length $name > 55; # more than one block of SHA-256
my $file = "5-$id-" . substr(sha256($name), 0, 24) . '-00000000~0.0.0.json';

sub sha256 { # FIPS 180-4, of at most 55 bytes; Digest::SHA is not in perl-base. Constants: 4.2.2 and 5.3.3, from the primes themselves
  my @primes = grep { my $n = $_; !grep { $n % $_ == 0 } 2 .. sqrt $n } 2 .. 311;
  my $part = sub { my $x = $_[0]; int(($x - int $x) * 2**32) };
  my @k = map $part->($_ ** (1 / 3)), @primes;
  my @hash = map $part->(sqrt), @primes[0 .. 7];
  my $turn = sub { ($_[0] >> $_[1] | $_[0] << 32 - $_[1]) & 0xffffffff };
  my @w = unpack 'N16', pack 'a56 Q>', "$_[0]\x80", 8 * length $_[0];
  for my $i (16 .. 63) {
    my ($x, $y) = @w[$i - 15, $i - 2];
    $w[$i] = $w[$i - 16] + $w[$i - 7] + ($turn->($x, 7) ^ $turn->($x, 18) ^ $x >> 3) + ($turn->($y, 17) ^ $turn->($y, 19) ^ $y >> 10) & 0xffffffff;
  }
  my ($a, $b, $c, $d, $e, $f, $g, $h) = @hash;
  for my $i (0 .. 63) {
    my $t = $h + ($turn->($e, 6) ^ $turn->($e, 11) ^ $turn->($e, 25)) + ($e & $f ^ ~$e & $g) + $k[$i] + $w[$i];
    my $u = ($turn->($a, 2) ^ $turn->($a, 13) ^ $turn->($a, 22)) + ($a & $b ^ $a & $c ^ $b & $c);
    ($h, $g, $f, $e, $d, $c, $b, $a) = ($g, $f, $e, $d + $t & 0xffffffff, $c, $b, $a, $t + $u & 0xffffffff);
  }
  my @last = ($a, $b, $c, $d, $e, $f, $g, $h);
  join '', map { sprintf '%08x', $hash[$_] + $last[$_] & 0xffffffff } 0 .. 7;
}

# ---- the record: whole, or Node begins anew

my ($base, $sync) = ("$o{root}/$o{instance}", !$o{'no-fsync'});
my ($jobs, $output) = ("$base/jobs", "$base/output/jobs");
my $folder = "$output/$id";
my %path = (status => "$folder/status.json", result => "$folder/result.json", record => "$jobs/started/$file",
  done => "$jobs/done/$file", failed => "$jobs/failed/$file", cancelled => "$jobs/cancelled/$file",
  events => "$base/output/.daemon/events.jsonl");

sub text { '"' . $_[0] =~ s/(["\\])/\\$1/gr . '"' } # as JSON
sub synced { syscall($arch eq 'x64' ? 74 : 82, fileno($_[0]) + 0) == 0 } # fsync(2)
sub write_new {
  my ($path, $content, $mode, $sync) = @_;
  sysopen my $f, $path, 0301, $mode or return; # O_WRONLY O_CREAT O_EXCL
  (syswrite($f, $content) // -1) == length $content && (!$sync || synced($f)) && close $f;
}
sub sync_folder { open my $d, '<', $_[0] or return; synced($d) }

my @words = map text($_), @command;
my $status = qq({\n  "schema": 1,\n  "id": "$id",\n  "name": "$name",\n  "kind": "command",\n  "state": "running",\n  "since": "$at",\n)
  . qq(  "attempt": 1,\n  "epoch": 0,\n  "priority": 5,\n  "accepted_at": "$at",\n  "started_at": "$at",\n  "host": ) . text($host)
  . qq(,\n  "command": [\n) . join(",\n", map "    $_", @words) . qq(\n  ],\n  "cwd": ) . text($o{cwd})
  . qq(,\n  "direct": true,\n  "drop_file": ""\n}\n);
my $record = qq({"schema":1,"id":"$id","kind":"command","answer":"$name","manifest":{"kind":"command","name":"$name","priority":5,)
  . qq("command":{"argv":[) . join(',', @words) . qq(],"cwd":) . text($o{cwd}) . qq(}},"drop":{"file":"","at":"$at","uid":$<,"gid":)
  . ($( + 0) . qq(,"bytes":0,"sha256":""},"diagnostics":[]}\n);
my $temp = "$jobs/started/.$file.tmp";
mkdir $folder, 0755 or node();
$undo = sub { unlink $temp, $path{status}; rmdir "$folder/run"; rmdir $folder };
write_new($path{status}, $status, 0644, 0) && mkdir("$folder/run", 0700)
  && (!$sync || sync_folder($folder) && sync_folder($output))
  && write_new($temp, $record, 0640, $sync) && rename($temp, $path{record}) or node();
# From here on it is a job, which somebody may have seen.
$undo = sub { rename $path{record}, $temp; unlink $temp, $path{status}; rmdir "$folder/run"; rmdir $folder };
!$sync || sync_folder("$jobs/started") or node();

# ---- the shim's starter

my $title = join ' ', map { m{^[\w@%+=:,./~-]+\z} ? $_ : "'" . s/'/'\\''/gr . "'" } @command;
$title =~ s/\s+/ /g;
$title = substr($title, 0, 79) . "\xe2\x80\xa6" if length $title > 80;
my $before = $o{output} eq 'name' ? "$id\n" : "Started background process:\n  Task ID: $id\n  PID: ";
my $after = $o{output} eq 'name' ? '' : "\n  Log file: $folder/log\n";
my %told = (arch => $arch, log => "$folder/log", log_mode => 640, log_max => 16 * 2**20, log_age => 0, log_total => 256 * 2**20,
  timeout => 0, kill_signal => 'SIGTERM', grace => 10_000, expected => 0, stdin => '/dev/null', cwd => $o{cwd}, token => $token, host => $host,
  pidns => $pidns, boot_id => $boot_id, fsync => $sync ? 1 : '', id => $id, name => text($name), title => substr(text($title), 1, -1),
  say_before => $before, say_after => $after, json => $o{output} eq 'json' ? 1 : '', words => $title, %path);
delete $ENV{NODE_COMPILE_CACHE} if ($ENV{NODE_COMPILE_CACHE} // '') =~ m{/vmspool\z}; # bin/vmspool's
@ENV{qw(VMSPOOL_JOB VMSPOOL_NAME VMSPOOL_GROUP)} = ($id, $name, $token);
my %env = %ENV;
/^(?:PERL|LC_|LANG)/ and $told{"env:$_"} = delete $env{$_} for keys %ENV; # would change what perl does
my $orders = join '&', map { join '=', map s/([%=&])/sprintf '%%%02X', ord $1/ger, $_, $told{$_} } keys %told;
my %ours = %ENV;
%ENV = (%env, LC_ALL => 'C', VMSPOOL_SHIM => $orders);
exec { '/usr/bin/perl' } '/usr/bin/perl', $shim, "$folder/run", @command;
%ENV = %ours; # hardly ever: no memory
delete @ENV{qw(VMSPOOL_JOB VMSPOOL_NAME VMSPOOL_GROUP)};
node();
