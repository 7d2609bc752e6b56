import { Command } from 'commander'
import type { Finding } from '../doctor/types.ts'
import { exitCodes, explain } from '../errors.ts'
import { type Format, formatOption, out, type Paint, painted, printValue, wantsColour } from '../output.ts'
import { type SpoolOptions, spoolOptions } from '../spool-options.ts'

interface Options extends SpoolOptions {
  output: Format
}

export default function define(): Command {
  return spoolOptions(new Command('doctor'))
    .description(
      'Check this host: tools and versions, KVM (really tried), libvirt and what VMs need of it, whether guests can be fixed, the spool with its permissions, filesystem and mount options, reflink (really tried), inotify, clock; and say how to fix what is wrong.',
    )
    .addOption(formatOption(['table', 'json', 'yaml', 'name']))
    .addHelpText(
      'after',
      `
Examples:
  vmspool doctor
  vmspool doctor --instance vsphere -o json | jq '.[] | select(.state == "fail")'

Each finding is one of: ok; note (works, but know this); warn (will hurt one day); fail (something that
was asked for cannot work). Exit code 1 when there is a fail, else 0. \`-o name\` prints the names of the
checks that are not ok.`,
    )
    .action(run)
}

async function run(o: Options): Promise<void> {
  const findings = await examine(o)
  if (findings.some((f) => f.state === 'fail')) process.exitCode = exitCodes.jobFailed
  if (o.output === 'json' || o.output === 'yaml') return printValue(o.output, findings)
  if (o.output === 'name') {
    for (const f of findings) if (f.state !== 'ok') out(f.check)
    return
  }
  const colour = wantsColour(process.stdout)
  const paints: Record<Finding['state'], Paint> = { ok: 'green', note: 'blue', warn: 'yellow', fail: 'red' }
  const width = Math.max(...findings.map((f) => f.check.length))
  for (const f of findings) {
    const state = f.state.padEnd(4)
    out(`${colour ? painted(paints[f.state], state) : state}  ${f.check.padEnd(width)}  ${f.detail}`)
    if (f.fix !== undefined) out(`${' '.repeat(width + 8)}→ ${f.fix}`)
  }
  const count = (state: Finding['state']): number => findings.filter((f) => f.state === state).length
  out('')
  out(`${count('ok')} ok, ${count('note')} notes, ${count('warn')} warnings, ${count('fail')} failures`)
}

async function examine(o: Options): Promise<Finding[]> {
  const [{ checkTools }, { checkKvm }, host] = await Promise.all([
    import('../doctor/tools.ts'),
    import('../doctor/kvm.ts'),
    import('../doctor/host.ts'),
  ])
  const general = await Promise.all([
    checkTools(),
    checkKvm(),
    host.checkInotify(),
    host.checkOpenFiles(),
    host.checkClock(),
  ])
  return [...general.flat(), ...(await spoolFindings(o))]
}

async function spoolFindings(o: Options): Promise<Finding[]> {
  const { locate } = await import('../../client/place.ts')
  const { checkSpool } = await import('../doctor/spool.ts')
  const { checkFixing } = await import('../doctor/fixing.ts')
  const { checkHistory } = await import('../doctor/history.ts')
  const { checkVms } = await import('../doctor/vms.ts')
  try {
    const place = await locate(o)
    return [
      { check: 'configuration', state: 'ok', detail: `instance "${place.instance}"` },
      await checkFixing(place.config),
      ...(await checkSpool(place)),
      ...(await checkVms(place)),
      await checkHistory(place),
    ]
  } catch (error) {
    const { message } = explain(error)
    return [
      {
        check: 'configuration',
        state: 'fail',
        detail: message,
        fix: 'Correct it; `vmspool config` names every error with its place.',
      },
      await checkFixing(undefined),
      ...(await checkVms(undefined)),
    ]
  }
}
