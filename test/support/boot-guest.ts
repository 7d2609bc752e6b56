import { spawn } from 'node:child_process'
import { until } from './wait.ts'

/**
 * Boots a disk under QEMU without KVM until its serial port has printed `until`, and returns what was printed. The disk is not changed.
 * @throws Error with the end of the output when QEMU ends or `deadline_ms` passes before
 */
export async function bootUntil(
  disk: { path: string; format: string },
  o: { until: RegExp; bus?: 'virtio' | 'ide'; memory_mib?: number; deadline_ms?: number },
): Promise<string> {
  const child = spawn(
    'qemu-system-x86_64',
    [
      ...['-machine', 'pc,accel=tcg', '-m', String(o.memory_mib ?? 512), '-nodefaults', '-no-user-config'],
      ...['-display', 'none', '-serial', 'stdio', '-no-reboot', '-snapshot'],
      ...['-drive', `file=${disk.path.replaceAll(',', ',,')},format=${disk.format},if=${o.bus ?? 'virtio'}`],
    ],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  )
  let said = ''
  let ended: string | undefined
  child.stdout.on('data', (d: Buffer) => (said += d.toString('latin1')))
  child.stderr.on('data', (d: Buffer) => (said += d.toString('latin1')))
  const closed = new Promise<void>((resolve) => {
    child.on('error', (e) => {
      ended = e.message
      resolve()
    })
    child.on('close', (code, signal) => {
      ended ??= signal ?? `exit code ${code}`
      resolve()
    })
  })
  try {
    await until(`the guest to print ${o.until}`, () => ended !== undefined || o.until.test(said), {
      deadline_ms: o.deadline_ms ?? 1_800_000,
      every_ms: 200,
      also: () => said.slice(-4000),
    })
    if (!o.until.test(said))
      throw new Error(`QEMU ended (${ended}) before the guest printed ${o.until}:\n${said.slice(-4000)}`)
    return said
  } finally {
    if (ended === undefined) child.kill('SIGKILL')
    await closed
  }
}
