/**
 * virt-customize arguments for a checked configuration. Contents go through files, never through a command line; what stands in a script is a
 * checked name in single quotes.
 */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { GuestConfiguration } from './types.ts'

/**
 * Writes scripts and contents below `<dir>/conf` and returns the arguments that use them, relative to `dir` (an absolute path could hold
 * the colon at which virt-customize splits). The commands run in this order.
 */
export async function customizeArgs(c: GuestConfiguration, dir: string): Promise<{ args: string[]; done: string[] }> {
  const conf = join(dir, 'conf')
  await mkdir(conf, { recursive: true, mode: 0o700 })
  let n = 0
  const put = async (content: string): Promise<string> => {
    const name = `conf/${String(++n).padStart(4, '0')}`
    await writeFile(join(dir, name), content, { mode: 0o600 })
    return name
  }
  const args: string[] = []
  const done: string[] = []
  if (c.hostname) {
    args.push('--hostname', c.hostname.name)
    done.push(`hostname ${fullName(c.hostname)}`)
  }
  const hosts = hostLines(c)
  if (hosts.length > 0) {
    args.push('--run', await put(script(hosts.map((l) => `addline /etc/hosts ${quoted(l)}`))))
    done.push(`${hosts.length} line(s) of /etc/hosts`)
  }
  for (const u of c.users.create) {
    args.push('--run', await put(script(createUser(u))))
    for (const key of u.ssh_keys) args.push('--ssh-inject', `${u.name}:file:${await put(`${key}\n`)}`)
    if (u.sudo !== undefined) {
      const file = `/etc/sudoers.d/90-vmspool-${u.name}`
      args.push(
        '--mkdir',
        '/etc/sudoers.d',
        '--upload',
        `${await put(`${u.name} ${u.sudo}\n`)}:${file}`,
        '--chmod',
        `0440:${file}`,
      )
      args.push('--run', await put(script([`if command -v visudo >/dev/null; then visudo -cf ${quoted(file)}; fi`])))
    }
    done.push(`user ${u.name}`)
  }
  if (c.users.disable.length > 0) {
    args.push('--run', await put(script(c.users.disable.flatMap(disableUser))))
    done.push(`disabled users: ${c.users.disable.join(', ')}`)
  }
  for (const f of c.files) {
    args.push(
      '--mkdir',
      f.path.replace(/\/[^/]*$/, ''),
      '--upload',
      `${await put(f.content)}:${f.path}`,
      '--chmod',
      `${f.mode}:${f.path}`,
    )
    done.push(f.path)
  }
  const services = serviceLines(c)
  if (services.length > 0) {
    args.push(
      '--run',
      await put(script(['command -v systemctl >/dev/null || fail "this guest has no systemctl"', ...services])),
    )
    for (const what of ['enable', 'disable', 'mask'] as const)
      if (c.services[what].length > 0) done.push(`${what}: ${c.services[what].join(', ')}`)
  }
  return { args, done }
}

function fullName(h: NonNullable<GuestConfiguration['hostname']>): string {
  return h.domain === undefined || h.name.includes('.') ? h.name : `${h.name}.${h.domain}`
}

function hostLines(c: GuestConfiguration): string[] {
  const lines = c.hosts.map((h) => `${h.address} ${h.names.join(' ')}`)
  // Debian's way to give a host its full name
  if (c.hostname?.domain !== undefined && !c.hostname.name.includes('.'))
    lines.unshift(`127.0.1.1 ${fullName(c.hostname)} ${c.hostname.name}`)
  return lines
}

/** A script for the guest's own /bin/sh. */
function script(lines: readonly string[]): string {
  return `#!/bin/sh
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin
fail() { echo "vmspool: $1" >&2; exit 1; }
addline() { grep -qxF -e "$2" "$1" 2>/dev/null || printf '%s\\n' "$2" >> "$1"; }
${lines.join('\n')}
`
}

/** For /bin/sh: nothing inside is special, whatever it holds. */
export function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`
}

function createUser(u: GuestConfiguration['users']['create'][number]): string[] {
  const name = quoted(u.name)
  const uid = u.uid === undefined ? '' : ` -u ${u.uid}`
  const lines = [
    'shell=/bin/sh; [ -x /bin/bash ] && shell=/bin/bash',
    `if id -u ${name} >/dev/null 2>&1; then`,
    ...(u.uid === undefined
      ? ['  :']
      : [`  [ "$(id -u ${name})" = ${u.uid} ] || fail "the user ${u.name} exists with another uid"`]),
    `else useradd -m -s "$shell"${uid} ${name}; fi`,
  ]
  for (const g of u.groups) {
    lines.push(`getent group ${quoted(g)} >/dev/null || groupadd ${quoted(g)}`, `usermod -a -G ${quoted(g)} ${name}`)
  }
  return lines
}

/** Locked, expired since 1970 (which also stops logins with a key), and kept with all its files. */
function disableUser(user: string): string[] {
  const name = quoted(user)
  return [`id -u ${name} >/dev/null 2>&1 || fail "there is no user ${user} to disable"`, `usermod -L -e 1 ${name}`]
}

function serviceLines(c: GuestConfiguration): string[] {
  return [
    ...c.services.disable.map((u) => `systemctl disable ${quoted(u)}`),
    ...c.services.mask.map((u) => `systemctl mask ${quoted(u)}`),
    ...c.services.enable.map((u) => `systemctl enable ${quoted(u)}`),
  ]
}
