package config

// Retention says what is kept, apart for archives with a database and for those
// of workflows alone ("backup create --only workflows").
type Retention struct {
	// Archives is the policy for archives with a database. Optional.
	Archives RetentionPolicy `yaml:"archives"`

	// Workflows is the policy for archives of workflows alone. Optional.
	Workflows RetentionPolicy `yaml:"workflows"`
}

// RetentionPolicy counts periods, not days: the newest archive of each is kept,
// and periods without one do not count. An archive stays that any of the numbers
// keeps. The zero value means [DefaultRetention]; with any number given, the
// others are 0.
type RetentionPolicy struct {
	// Last keeps that many newest archives. Optional.
	Last int `yaml:"last" example:"3"`

	// Hourly keeps one archive of each of that many hours. Optional.
	Hourly int `yaml:"hourly" example:"24"`

	// Daily keeps one archive of each of that many days. Optional.
	Daily int `yaml:"daily" example:"30"`

	// Weekly keeps one archive of each of that many weeks. Optional.
	Weekly int `yaml:"weekly" example:"14"`

	// Monthly keeps one archive of each of that many months. Optional.
	Monthly int `yaml:"monthly" example:"12"`

	// Yearly keeps one archive of each of that many years. Optional.
	Yearly int `yaml:"yearly" example:"7"`
}

// DefaultRetention is one archive a day for 30 days, and one a week for 90 days,
// which touch 14 weeks: the newest of a week is kept until the 14th week after it
// has its first, 92 days later.
func DefaultRetention() RetentionPolicy { return RetentionPolicy{Daily: 30, Weekly: 14} }

// OrDefault is p, or [DefaultRetention] if p is the zero value.
func (p RetentionPolicy) OrDefault() RetentionPolicy {
	if p == (RetentionPolicy{}) {
		return DefaultRetention()
	}
	return p
}
