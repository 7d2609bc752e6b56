import { expect, test } from 'vitest'
import { parseUri, type SshTarget } from '../../src/libvirt/uri.ts'

const root = { uid: 0, env: {}, exists: () => true }
const user = { uid: 1000, env: { XDG_RUNTIME_DIR: '/run/user/1000' }, exists: () => true }
const unix = (driver_uri: string, socket: string) => ({ transport: 'unix', driver_uri, socket })

test.each([
  ['qemu:///system', root, 'qemu:///system', '/run/libvirt/libvirt-sock'],
  ['qemu:///system', user, 'qemu:///system', '/run/libvirt/libvirt-sock'],
  ['QEMU:///system', root, 'qemu:///system', '/run/libvirt/libvirt-sock'],
  ['qemu:///session', user, 'qemu:///session', '/run/user/1000/libvirt/libvirt-sock'],
  ['qemu:///session', { ...user, env: { HOME: '/h' } }, 'qemu:///session', '/h/.cache/libvirt/libvirt-sock'],
  ['test:///default', root, 'test:///default', '/run/libvirt/libvirt-sock'],
  ['test:///default', user, 'test:///default', '/run/user/1000/libvirt/libvirt-sock'],
  ['qemu:///system?socket=/tmp/a%20b', user, 'qemu:///system', '/tmp/a b'],
  ['qemu+unix:///system?socket=/s', root, 'qemu:///system', '/s'],
  ['qemu:///system?mode=direct', root, 'qemu:///system', '/run/libvirt/virtqemud-sock'],
  ['qemu:///system?mode=legacy', { ...root, exists: () => false }, 'qemu:///system', '/run/libvirt/libvirt-sock'],
  ['qemu:///system?name=test:///default&socket=/s', root, 'test:///default', '/s'],
])('%s', (uri, o, driver, socket) => {
  expect(parseUri(uri, o)).toEqual(unix(driver, socket))
})

test('where only the modular daemons run, theirs is taken', () => {
  const exists = (path: string) => path.endsWith('virtqemud-sock')
  expect(parseUri('qemu:///system', { ...root, exists })).toMatchObject({ socket: '/run/libvirt/virtqemud-sock' })
})

test('who only reads takes the socket for that, where there is one', () => {
  const socket = (uri: string, o: object) => parseUri(uri, { ...root, readonly: true, ...o })
  expect(socket('qemu:///system', {})).toMatchObject({ socket: '/run/libvirt/libvirt-sock-ro' })
  expect(socket('qemu:///system?mode=direct', {})).toMatchObject({ socket: '/run/libvirt/virtqemud-sock-ro' })
  const exists = (path: string) => !path.endsWith('-ro')
  expect(socket('qemu:///system', { exists })).toMatchObject({ socket: '/run/libvirt/libvirt-sock' })
  expect(socket('qemu:///session', user)).toMatchObject({ socket: '/run/user/1000/libvirt/libvirt-sock' })
  expect(socket('qemu:///system?socket=/s', {})).toMatchObject({ socket: '/s' })
})

test.each([
  ['', /no URI/],
  ['qemu', /no URI/],
  ['/run/libvirt/libvirt-sock', /no URI/],
  ['qemu+tls://host/system', /transport tls is not supported/],
  ['qemu://host/system', /through ssh only/],
  ['qemu+unix://host/system', /through ssh only/],
  ['qemu+ssh:///system', /needs a host/],
  ['qemu+ssh://a:b:c/system', /no \[user@\]host/],
  ['qemu:///system?sockt=/s', /parameter "sockt" is not known/],
  ['qemu:///system?mode=other', /mode is "other"/],
  ['qemu+ssh://h/system?proxy=other', /proxy is "other"/],
  ['qemu+ssh://h/session?proxy=netcat', /netcat cannot find/],
])('%j is refused', (uri, why) => {
  expect(() => parseUri(uri, user)).toThrow(TypeError)
  expect(() => parseUri(uri, user)).toThrow(why)
})

test('the session of a user without a home cannot be found', () => {
  expect(() => parseUri('qemu:///session', { uid: 1000, env: {} })).toThrow(/neither XDG_RUNTIME_DIR nor HOME/)
})

test('ssh gets the words that libvirt gives it', () => {
  const argvOf = (uri: string) => (parseUri(uri) as SshTarget).argv
  const argv = argvOf('qemu+ssh://joe@[fe80::1]:2222/system?keyfile=/k&no_verify=1')
  expect(argv.slice(0, -1)).toEqual([
    ...['ssh', '-p', '2222', '-l', 'joe', '-i', '/k', '-T', '-e', 'none', '-o', 'BatchMode=yes'],
    ...['-o', 'StrictHostKeyChecking=no', '--', 'fe80::1'],
  ])
  expect(argv.at(-1)).toMatch(/^sh -c '.*virt-ssh-helper '\\''qemu:\/\/\/system'\\''; else .*-U .*libvirt-sock/)
  // a host cannot become an option, nor a path a command
  expect(argvOf('qemu+ssh://-oProxyCommand=x/system').slice(-3, -1)).toEqual(['--', '-oProxyCommand=x'])
  expect(argvOf(`qemu+ssh://h/system?socket=/a'b;c`).at(-1)).toContain(`-U '\\''/a'\\''\\'\\'''\\''b;c'\\''`)
})
