//! The workload of the walk: numbered lines with a running checksum, and memory that it looks at each time, so that a line lost,
//! doubled or out of another life shows, and so does a damaged page.

use std::path::Path;

/// Factor of the running checksum.
const FACTOR: u64 = 31;
/// The checksum counts to here, as the program's does.
const MODULUS: u64 = 1 << 32;

/// The program. A full disk makes it wait. With a port as its argument it also says back what it is told on connections to it.
pub const PROGRAM: &str = r#"
use IO::Socket::INET;
my $listens = @ARGV && IO::Socket::INET->new(LocalPort => $ARGV[0], Listen => 5, ReuseAddr => 1);
my @clients;
sub pause {
    my $ready = "";
    vec($ready, fileno($_), 1) = 1 for grep { $_ } $listens, @clients;
    return if select($ready, undef, undef, 0.005) <= 0;
    for my $client (grep { vec($ready, fileno($_), 1) } @clients) {
        my $said = "";
        sysread($client, $said, 4096) ? syswrite($client, $said) : (@clients = grep { $_ != $client } @clients);
    }
    push(@clients, scalar $listens->accept) if $listens && vec($ready, fileno($listens), 1);
}
$SIG{USR1} = sub { exit 7 };
my ($n, $sum, $total, $memory) = (0, 0, 0, "\0" x 65536);
while (1) {
    my $at = $n % length $memory;
    my ($old, $new) = (vec($memory, $at, 8), ($n * 7 + 3) % 256);
    vec($memory, $at, 8) = $new;
    $total += $new - $old;
    $sum = ($sum * 31 + $n) % 4294967296;
    my $line = "$n $sum " . (unpack("%32C*", $memory) == $total ? "whole" : "damaged") . "\n";
    while (length $line) {
        my $written = syswrite STDOUT, $line;
        defined $written ? substr($line, 0, $written, "") : select(undef, undef, undef, 0.005);
    }
    $n++;
    pause();
}
"#;

/// Talks to the program over one connection (arguments: address with port, a file): every line has to come back as it was said.
/// Says `.` for each, and how many did when the file is there.
pub const CLIENT: &str = r#"
use IO::Socket::INET;
my $server = IO::Socket::INET->new(PeerAddr => $ARGV[0], Timeout => 10) or die "connect: $!";
my $n = 0;
until (-e $ARGV[1]) {
    my $line = "line $n\n";
    syswrite($server, $line) == length $line or die "after $n lines: $!";
    my $back = "";
    while (length $back < length $line) {
        sysread($server, $back, 4096, length $back) or die "after $n lines: the connection ended: $!";
    }
    $back eq $line or die "after $n lines came back: $back";
    $n++;
    syswrite(STDOUT, ".");
    select(undef, undef, undef, 0.005);
}
print "all $n lines came back\n";
"#;

/// How far a log has counted.
///
/// # Errors
/// The line that does not follow from those before it.
pub fn counted(log: &Path) -> Result<u64, String> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let whole = &text[..text.rfind('\n').map_or(0, |at| at + 1)];
    let mut sum = 0u64;
    for (number, line) in (0u64..).zip(whole.lines()) {
        sum = (sum * FACTOR + number) % MODULUS;
        if line != format!("{number} {sum} whole") {
            return Err(format!(
                "line {number} of {} is {line:?}, its checksum should be {sum}",
                log.display()
            ));
        }
    }
    Ok(whole.lines().count() as u64)
}
