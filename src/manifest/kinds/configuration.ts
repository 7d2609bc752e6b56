/**
 * `configuration` of Artifact Manifest 1.0: what is changed inside the guest. hyper2kvm takes free maps; here every value that becomes a name, a
 * path or a line in the guest is checked, since whoever writes the manifest need not be trusted by whoever runs the agent.
 */
import { isIP } from 'node:net'
import { z } from 'zod'
import { hostName, LABEL } from './parts.ts'

/** useradd(8) of Debian and Fedora. */
const account = z.string().regex(/^[a-z_][a-z0-9_-]{0,31}$/, {
  error: 'must be a user or group name: small letters, digits, "_" and "-", at most 32, beginning with a letter or "_"',
})

/** One line of an authorized_keys file without options in front: sshd(8). */
const sshKey = z
  .string()
  .max(16_384)
  .regex(
    /^(?:ssh-(?:rsa|dss|ed25519)|ecdsa-sha2-nistp(?:256|384|521)|sk-(?:ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com) [A-Za-z0-9+/]+={0,3}(?: [\x20-\x7e]*)?$/,
    {
      error: 'must be one public key on one line, such as "ssh-ed25519 AAAA… comment"',
    },
  )

/** What stands behind the user's name in a sudoers rule. */
const sudoRule = z
  .string()
  .max(1024)
  .regex(/^[A-Z%][\x20-\x7e]*=[\x20-\x7e]+$/, {
    error: 'must be true, false, or a sudoers rule without the user, such as "ALL=(ALL:ALL) NOPASSWD: ALL"',
  })

/** systemd.unit(5): names of units. */
const unit = z
  .string()
  .max(255)
  .regex(/^[A-Za-z0-9_][A-Za-z0-9:_.\\@-]*$/, { error: 'must be the name of a unit, such as "sshd.service"' })

const names = z.union(
  [
    hostName,
    z.string().regex(new RegExp(`^${LABEL}(?:\\.${LABEL})*(?: +${LABEL}(?:\\.${LABEL})*)+$`)),
    z.array(hostName).min(1).max(64),
  ],
  {
    error: 'must be a host name, several with blanks between, or a list of them',
  },
)

const address = z.string().refine((a) => isIP(a) !== 0, { error: 'must be an IP address' })

/** Where each type of file goes in the guest. `{p}` is the priority with two digits, `{n}` the name. */
export const networkFileTypes = {
  network: { path: '/etc/systemd/network/{p}-{n}.network', mode: '0644' },
  netdev: { path: '/etc/systemd/network/{p}-{n}.netdev', mode: '0640' },
  link: { path: '/etc/systemd/network/{p}-{n}.link', mode: '0644' },
  netplan: { path: '/etc/netplan/{p}-{n}.yaml', mode: '0600' },
  nmconnection: { path: '/etc/NetworkManager/system-connections/{n}.nmconnection', mode: '0600' },
  interfaces: { path: '/etc/network/interfaces.d/{n}', mode: '0600' },
  ifcfg: { path: '/etc/sysconfig/network-scripts/ifcfg-{n}', mode: '0600' },
} as const

const networkFile = z.looseObject({
  type: z.enum(Object.keys(networkFileTypes) as [keyof typeof networkFileTypes]),
  name: z
    .string()
    .max(100)
    .regex(/^[A-Za-z0-9][A-Za-z0-9_.-]*$/, {
      error: 'must be letters, digits, "_", "." and "-" only (it becomes a file name in the guest)',
    }),
  priority: z.int().min(0).max(99).optional().meta({ description: 'Default 10.' }),
  content: z
    .string()
    .max(65_536)
    .refine((c) => !c.includes('\0') && c.isWellFormed(), { error: 'must be text' }),
})

const units = z.array(unit).max(256).optional()

export const configuration = z
  .looseObject({
    users: z
      .looseObject({
        create: z
          .array(
            z.looseObject({
              name: account,
              uid: z.int().min(1).max(4_294_967_294).optional(),
              groups: z.array(account).max(64).optional(),
              ssh_keys: z.array(sshKey).max(64).optional(),
              sudo: z
                .union([z.boolean(), sudoRule], { error: 'must be true, false, or a sudoers rule without the user' })
                .optional()
                .meta({ description: 'true: everything, without a password.' }),
            }),
          )
          .max(64)
          .optional(),
        disable: z.array(account).max(256).optional(),
      })
      .optional(),
    services: z.looseObject({ enable: units, disable: units, mask: units }).optional(),
    hostname: z
      .union(
        [
          hostName,
          z.looseObject({
            name: hostName.optional(),
            domain: hostName.optional(),
            hosts: z
              .record(z.string(), z.union([names, address]))
              .refine(
                (h) =>
                  Object.entries(h).every(
                    ([k, v]) =>
                      isIP(k) !== 0 || (typeof v === 'string' && isIP(v) !== 0 && hostName.safeParse(k).success),
                  ),
                {
                  error: 'must map addresses to host names (or host names to addresses)',
                },
              )
              .optional(),
          }),
        ],
        { error: 'must be a host name, or an object with name, domain and hosts' },
      )
      .optional(),
    network: z.looseObject({ files: z.array(networkFile).max(64).optional() }).optional(),
  })
  .meta({ description: 'What is changed inside the guest (virt-customize).' })
